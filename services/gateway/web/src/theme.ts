/** Light or dark: as the system has it, until somebody chooses. */

import { effect, signal } from "@preact/signals";

export type Theme = "light" | "dark";
const CHOSEN = "unirig.theme";

const system = matchMedia("(prefers-color-scheme: dark)");
const chosen = localStorage.getItem(CHOSEN) as Theme | null;
const systemTheme = (): Theme => (system.matches ? "dark" : "light");

export const theme = signal<Theme>(chosen ?? systemTheme());

export function otherTheme(current: Theme): Theme {
  return current === "dark" ? "light" : "dark";
}

system.addEventListener("change", () => {
  if (!localStorage.getItem(CHOSEN)) theme.value = systemTheme();
});

effect(() => {
  document.documentElement.dataset.theme = theme.value;
  if (theme.value !== systemTheme()) localStorage.setItem(CHOSEN, theme.value);
  else localStorage.removeItem(CHOSEN);
});
