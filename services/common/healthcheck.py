"""`python -m services.common.healthcheck`: exits 0 where the service in this container lives.

Images run it as their health command; in a cluster the kubelet asks /healthz itself.
"""

import sys
import urllib.error
import urllib.request

from services.common.settings import ServiceSettings

# From what a service is told to listen on to where it is found then.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_SECONDS = 2


def main() -> None:
    """Asks /healthz on the port and address that the environment names; exits 1 on a failure."""
    settings = ServiceSettings()
    host = _LOOPBACK.get(settings.bind_host, settings.bind_host)
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{settings.metrics_port}/healthz"
    try:
        urllib.request.urlopen(address, timeout=_SECONDS).close()
    except (urllib.error.URLError, OSError) as error:
        sys.exit(f"{address}: {error}")


if __name__ == "__main__":
    main()
