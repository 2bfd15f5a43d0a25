/** Colours of the page for charts on canvas, read anew when the theme changes. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** A stage's colour by its place: neighbours differ in hue and in lightness, also for most colour-blind readers. */
const LIGHT = ["#2a67ad", "#8fb3d9", "#1f7a6d", "#94c9a9", "#7a559c", "#c3a3da", "#a5742a", "#dfbf7a", "#a03d5c", "#dd9db2"];
const DARK = ["#70a9e8", "#3a618c", "#4fb8a5", "#2f6b57", "#bb98da", "#67508a", "#dfab4c", "#8a6a33", "#e58aa6", "#8a4660"];

export function stageColour(place: number): string {
  const colours = document.documentElement.dataset.theme === "dark" ? DARK : LIGHT;
  return colours[place % colours.length] ?? colour("running");
}
