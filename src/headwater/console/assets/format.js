// Values, units and times as people read them.

const UNITS = new Map(Object.entries({
  Cel: "°C", degF: "°F", K: "K", "%RH": "% RH", "%": "%", deg: "°", "m/s": "m/s", "S/m": "S/m", "m2": "m²", "m3": "m³",
  "m3/h": "m³/h", "m3/s": "m³/s", "W/m2": "W/m²", "1": "", "/": "", Ohm: "Ω", ug: "µg", "ug/m3": "µg/m³",
}));
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const HOURS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });

export const unitOf = (unit) => UNITS.get(unit) ?? unit ?? "";
export const clock = (ms) => CLOCK.format(ms);
export const hours = (ms) => HOURS.format(ms);
export const dateTime = (ms) => DATE.format(ms);

/** Four significant digits, thousands apart, no trailing noise. */
export function number(value) {
  if (!Number.isFinite(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString();
  const size = Math.abs(value);
  if (size >= 1e9 || size < 1e-4) return value.toExponential(3);
  const digits = size >= 1000 ? 1 : size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4;
  return value.toLocaleString(undefined, { maximumFractionDigits: digits });
}

export function value(raw) {
  if (raw === null || raw === undefined) return "–";
  if (typeof raw === "number") return number(raw);
  if (typeof raw === "boolean") return raw ? "true" : "false";
  if (typeof raw === "string") return raw;
  if (isLocation(raw)) return `${raw.latitude.toFixed(5)}, ${raw.longitude.toFixed(5)}`;
  return JSON.stringify(raw);
}

export const isLocation = (raw) => raw !== null && typeof raw === "object" && "latitude" in raw && "longitude" in raw;

export function withUnit(raw, unit) {
  const shown = unitOf(unit);
  return typeof raw === "number" && shown ? `${value(raw)} ${shown}` : value(raw);
}

/** "just now", "12 s ago", "3 min ago", "2 h ago", "5 days ago" */
export function age(ms, now = Date.now()) {
  if (ms === null || ms === undefined) return "never";
  const seconds = Math.max(0, Math.round((now - ms) / 1000));
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}

export const time = (text) => (text ? Date.parse(text) : null);
