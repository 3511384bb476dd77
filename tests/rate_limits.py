"""Rate limits for tests that make many sessions and uploads from one address."""

# The limits themselves have tests of their own.
ROOMY = {
    "RATE_LIMIT_UPLOADS_PER_HOUR": "1000",
    "RATE_LIMIT_API_PER_HOUR": "100000",
    "RATE_LIMIT_NEW_SESSIONS_PER_HOUR": "100000",
}
