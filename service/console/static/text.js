// The texts of the page's language. Every key is in texts.json, in all languages.

export const language = document.documentElement.dataset.language;
const { default: catalog } = await import(`./texts.${language}.js`);

/** The text of a key, with `{name}` replaced by values; for one of a thing, that of `key.one`. */
export function t(key, values = {}) {
  const text = (String(values.n) === "1" ? catalog[`${key}.one`] : undefined) ?? catalog[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Whether the catalog has a key; for codes that come from the API. */
export const has = (key) => key in catalog;

/** What a job is doing, in the page's language where it has a word for it. */
export const phaseText = (phase) => (has(`phase.${phase}`) ? t(`phase.${phase}`) : phase);

export const number = (value, digits = 0) =>
  Number(value).toLocaleString(language, { maximumFractionDigits: digits, minimumFractionDigits: digits });

export const percent = (value, digits = 1) => `${number(100 * value, digits)}%`;

export function bytes(size) {
  const units = ["B", "KB", "MB", "GB"];
  let step = 0;
  while (size >= 1000 && step < units.length - 1) {
    size /= 1000;
    step += 1;
  }
  return `${number(size, step && size < 10 ? 1 : 0)} ${units[step]}`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return t("time.seconds", { n: whole });
  if (whole < 3600) return t("time.minutes", { n: Math.floor(whole / 60), s: whole % 60 });
  return t("time.hours", { n: Math.floor(whole / 3600), m: Math.floor((whole % 3600) / 60) });
}

export const moment = (text) =>
  text ? new Date(text).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" }) : "–";

export const day = (text) => (text ? new Date(text).toLocaleDateString(language, { dateStyle: "medium" }) : "–");
