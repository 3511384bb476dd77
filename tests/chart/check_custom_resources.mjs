// Validates the custom resources on standard input, a JSON list, against their definitions.
// Prints a line for each fault and exits 1 where there is one.
import { readFileSync } from 'node:fs'
import { HTTPRoute } from '@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute'
import { ScaledObject } from '@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject'
import { PrometheusRule } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule'
import { ServiceMonitor } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor'

const kinds = { HTTPRoute, PrometheusRule, ScaledObject, ServiceMonitor }
for (const resource of JSON.parse(readFileSync(0, 'utf8'))) {
  try {
    new kinds[resource.kind](resource).validate()
  } catch (error) {
    console.log(`${resource.kind}/${resource.metadata.name}: ${error.message}`)
    process.exitCode = 1
  }
}
