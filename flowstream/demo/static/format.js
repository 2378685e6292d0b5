// Numbers as people read them.

const whole = new Intl.NumberFormat("en");

export const count = (value) => whole.format(value);

export function bytes(value) {
  if (value == null) return "unknown";
  if (value < 1000) return `${value} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let size = value / 1000;
  let unit = 0;
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0)} ${units[unit]}`;
}

export const seconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} s`;

export function age(value) {
  if (value < 60) return `${Math.floor(value)} s`;
  return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
}
