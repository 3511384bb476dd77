// What Grafana reads of a dashboard, by its own published types. The test appends each dashboard as
// a literal of this type: tsc then names a misspelt field and a wrong value.
import type { Dashboard as Any, FieldConfigSource, GraphFieldConfig, Panel as AnyPanel, RowPanel } from '@grafana/schema'
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen'
import type { Options as TableOptions } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen'
import type { Options as LinesOptions } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen'

// JSON has the enums' values, not their names.
type Plain<T> = T extends string ? `${T}` : T extends object ? { [Key in keyof T]: Plain<T[Key]> } : T

interface Query {
  refId: string
  expr: string
  legendFormat: string
  instant?: true
  format?: 'table'
}

type Panel<Type extends string, Options, Custom> = Plain<Omit<AnyPanel, 'fieldConfig' | 'options' | 'targets' | 'type'>> & {
  type: Type
  title: string
  description: string
  targets: Query[]
  options: Plain<Partial<Options>>
  fieldConfig: Plain<Omit<FieldConfigSource, 'defaults'>> & {
    defaults: Plain<Omit<FieldConfigSource['defaults'], 'custom'>> & { custom?: Plain<Custom> }
  }
}

type Panels =
  | Panel<'stat', StatOptions, Record<string, never>>
  | Panel<'table', TableOptions, { align: string, filterable: boolean }>
  | Panel<'timeseries', LinesOptions, GraphFieldConfig>
  | Plain<RowPanel>

type Dashboard = Plain<Omit<Any, 'panels'>> & { panels: Panels[] }

export const dashboards: Dashboard[] = []
