import { otherTheme, theme } from "../theme";

export function ThemeSwitch() {
  const other = otherTheme(theme.value);
  return (
    <button
      type="button"
      class="quiet"
      aria-label={`Switch to the ${other} theme`}
      onClick={() => {
        theme.value = other;
      }}
    >
      {other === "dark" ? "Dark" : "Light"}
    </button>
  );
}
