/** Options as people type them: "split.size = 800", one a line. Values are JSON where they can be, text otherwise. */
export function optionsOf(text: string): Record<string, unknown> {
  const options: Record<string, unknown> = {};
  for (const line of text.split("\n")) {
    const sign = line.indexOf("=");
    if (sign < 1) continue;
    const value = line.slice(sign + 1).trim();
    try {
      options[line.slice(0, sign).trim()] = JSON.parse(value);
    } catch {
      options[line.slice(0, sign).trim()] = value;
    }
  }
  return options;
}
