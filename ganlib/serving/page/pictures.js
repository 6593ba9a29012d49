// Pictures: what they are called and were made of, how large they stand in a space, and the dialog that shows one.

import { seedAfter, toHash } from "./settings.js";

const SMALL = 128; // pixels; up to here each is shown as a square, and at whole multiples
const LARGEST = 512; // of a picture on the page

/** One image of an answer.
 *  @param entry the served model of /v1/models.
 *  @param asked what was asked for, all images together.
 *  @param index of this one among them.
 *  @param bytes its PNG file. */
export function picture(entry, asked, index, bytes) {
  const seed = seedAfter(asked.seed, index);
  const towards = asked.towards && { ...asked.towards, strip: false };
  const way = towards ? `-to-${towards.seed}-${towards.position}` : "";
  const subject = asked.prompt || entry.name;
  return {
    entry, bytes, seed,
    asked: { ...asked, seed, count: "1", towards },
    url: URL.createObjectURL(new Blob([bytes], { type: "image/png" })),
    alt: `${subject}, seed ${seed}${towards ? `, ${percent(towards.position)} of the way to seed ${towards.seed}` : ""}`,
    file: `${entry.name}-${seed}${way}.png`,
  };
}

/** Gives back the memory of pictures that are out of sight; not while the dialog may show them. */
export const forget = (pictures) => dialog.open || pictures.forEach(({ url }) => URL.revokeObjectURL(url));
export const percent = (position) => `${Math.round(position * 100)} %`;

/** The largest squares of which `count` fit into a space, and how many stand in a row: `{length, columns}`. The pixels
 *  of a small image all get the same size, unless the screen's are too fine for a difference to be seen. */
export function layout(pixels, count, width, height, { gap = 14, below = 26, least = 96, most = LARGEST } = {}) {
  const step = pixels <= SMALL && devicePixelRatio < 2 ? pixels : 1;
  const fitting = (space) => {
    const limit = Math.min(space, Math.max(most, pixels));
    return limit < step ? limit : Math.floor(limit / step) * step;
  };
  let best = { length: 0, columns: 1 };
  for (let columns = 1; columns <= count; columns++) {
    const length = fitting((width - gap * (columns - 1)) / columns), rows = Math.ceil(count / columns);
    if (columns > 1 && length < least) break;
    best = { length, columns };
    if (rows * (length + below + gap) <= height) break;
  }
  return best;
}

export const isSmall = (entry) => entry.image_size.width <= SMALL;

/** Adds to a list, a button for each that it lacks; it opens the dialog there. */
export function fill(list, pictures, caption) {
  for (let index = list.children.length; index < pictures.length; index++) {
    const { url, alt } = pictures[index];
    const button = element("button", { type: "button", className: "tile" });
    button.append(element("img", { src: url, alt }));
    button.addEventListener("click", () => open(pictures, index, (shown) => list.querySelectorAll("button")[shown]));
    const item = element("li", {});
    item.append(button, element("span", { textContent: caption(pictures[index]) }));
    list.append(item);
  }
  list.hidden = false;
}

export const element = (tag, properties) => Object.assign(document.createElement(tag), properties);

/** What a PNG file says of itself in its international text "ganlib", or null. */
function told(bytes) {
  const view = new DataView(bytes.buffer), decode = (from, to) => new TextDecoder().decode(bytes.subarray(from, to));
  for (let at = 8; at + 8 < bytes.length; at += 12 + view.getUint32(at)) {
    const start = at + 8, end = start + view.getUint32(at);
    // keyword 0, compressed? method, language 0, translated keyword 0, text (PNG 1.2, section 4.2.3.3)
    if (decode(at + 4, start) !== "iTXt" || decode(start, start + 7) !== "ganlib\0" || bytes[start + 7]) continue;
    const language = bytes.indexOf(0, start + 9), keyword = bytes.indexOf(0, language + 1);
    return JSON.parse(decode(keyword + 1, end));
  }
  return null;
}

function facts({ entry, asked, bytes }) {
  const file = told(bytes), { towards } = asked, { width, height } = entry.image_size;
  return [
    ["Model", `${entry.name}, version ${entry.version}`],
    [entry.condition === "class" ? "Class" : "Prompt", asked.prompt],
    ["Unknown words", file?.unknown_words?.join(", ")],
    ["Seed", asked.seed],
    ["Truncation", asked.truncation],
    ["To prompt", towards?.prompt],
    ["To seed", towards?.seed],
    ["Position", towards && percent(towards.position)],
    ["Size", `${width} × ${height} pixels, ${(bytes.length / 1024).toFixed(1)} KiB`],
    ["Precision", file?.precision],
    ["Model's hash", file?.model_sha256.slice(0, 12)],
    ["Made by", file && `ganlib ${file.version}`],
    ["Licence", entry.licence],
  ];
}

/** Rows of a <dl>; what has no value is left out. */
export function describe(list, rows) {
  list.replaceChildren(
    ...rows
      .filter(([, value]) => value)
      .flatMap(([term, value]) => [element("dt", { textContent: term }), element("dd", { textContent: value })]),
  );
}

const at = (id) => document.getElementById(id);
const dialog = at("dialog");
let all = [], shown = 0, home = () => null;

/** Shows one of some pictures; `back` says what gets the focus when the dialog closes, by the index then shown. */
export function open(pictures, index, back) {
  [all, home] = [pictures, back];
  show(index);
  dialog.showModal();
  at("download").focus({ preventScroll: true });
}

export const current = () => all[shown];

/** Closes the dialog and gives the focus to an element. */
export function leave(element) {
  home = () => element;
  dialog.close();
}

function show(index) {
  shown = (index + all.length) % all.length;
  const { entry, url, alt, file, asked } = all[shown];
  Object.assign(at("full"), { src: url, alt });
  fit();
  dialog.classList.toggle("small", isSmall(entry));
  at("dialog-title").textContent = `Seed ${asked.seed}` + (all.length > 1 ? ` (${shown + 1} of ${all.length})` : "");
  describe(at("facts"), facts(all[shown]));
  Object.assign(at("download"), { href: url, download: file });
  at("link").href = toHash(asked);
  at("previous").hidden = at("next").hidden = all.length === 1;
}

function fit() {
  if (!all.length) return;
  const wide = innerWidth > 860, { width } = all[shown].entry.image_size;
  const space = [innerWidth - (wide ? 440 : 32), innerHeight - (wide ? 32 : 320)];
  const { length } = layout(width, 1, Math.min(...space), Infinity, { most: 768 });
  at("full").style.setProperty("--full", `${Math.max(length, 192)}px`);
}

addEventListener("resize", fit);
at("previous").addEventListener("click", () => show(shown - 1));
at("next").addEventListener("click", () => show(shown + 1));
at("close").addEventListener("click", () => dialog.close());
at("link").addEventListener("click", () => leave(at("results")));
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => home(shown)?.focus());
dialog.addEventListener("keydown", ({ key }) => {
  if (key === "ArrowLeft") show(shown - 1);
  if (key === "ArrowRight") show(shown + 1);
});
