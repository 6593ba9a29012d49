// What happens on the page: images are asked for, waited for and shown; the address says what was asked for.

import * as api from "./api.js";
import * as form from "./form.js";
import { current, element, fill, forget, isSmall, layout, leave, open, percent, picture } from "./pictures.js";
import { fromHash, randomSeed, toHash } from "./settings.js";

const FRAMES = 8; // of a strip
const OVERTAKEN = 250; // ms that a frame may still take after the slider has moved on

const at = (id) => document.getElementById(id);
let asked = null; // settings of what is shown
let images = [], stage = null, frames = []; // its pictures,
let summary = ""; // and in words

// ---- Work in flight: one piece a slot. A newer one ends an older one, Cancel ends all.

const running = new Map();
let until = null, since = 0, clock = 0;

async function during(slot, again, job) {
  running.get(slot)?.abort();
  const controller = new AbortController();
  running.set(slot, controller);
  at("alert").hidden = true;
  look();
  try {
    await job(controller.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    fail(error, again);
  } finally {
    if (running.get(slot) === controller) running.delete(slot);
    look();
  }
}

/** Makes the page show whether it is waiting. */
function look() {
  const busy = running.size > 0;
  at("results").setAttribute("aria-busy", busy);
  if (busy && !clock) {
    since = Date.now();
    clock = setInterval(tick, 100);
  } else if (!busy) {
    clearInterval(clock);
    [clock, until] = [0, null];
    at("clock").textContent = "";
    const hadFocus = document.activeElement === at("cancel");
    at("cancel").hidden = true;
    if (hadFocus) at("generate").focus();
  }
}

function tick() {
  const waited = Date.now() - since;
  if (waited < 300) return; // most answers come sooner, and then nothing flickers
  at("cancel").hidden = !form.isOffered(); // without models there is nothing to go back to
  if (until) at("clock").textContent = `in ${Math.max(1, Math.ceil((until - Date.now()) / 1000))} s`;
  else at("clock").textContent = waited < 2000 ? "" : `${Math.floor(waited / 1000)} s`;
}

/** Tells what goes on, screen readers too; the same text again is no news. */
function say(text) {
  if (at("status").textContent !== text) at("status").textContent = text;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/** Asks until there is an answer or an error that waiting does not mend. */
async function patiently(ask, signal) {
  for (let unready = 0; ; ) {
    try {
      return await ask(signal);
    } catch (error) {
      if (error.status === 401) await access(signal);
      else if (error.status === 429) await queue(error.seconds ?? 2, signal);
      else if (error.status === 503 && ++unready <= 3) await loading(signal); // a model that is unloaded stays so
      else throw error;
    }
    say("Asking again");
  }
}

async function queue(seconds, signal) {
  say("The server is busy. The page asks again by itself");
  until = Date.now() + 1000 * seconds;
  await pause(seconds, signal).finally(() => (until = null));
}

async function loading(signal) {
  say("The models are being loaded, or the server is about to stop. The page asks again by itself");
  do await pause(1, signal);
  while (!(await api.ready(signal)));
}

function access(signal) {
  at("access-why").textContent = api.hasToken()
    ? "The server did not accept this token."
    : "This server answers only to who has its access token.";
  at("access").hidden = false;
  at("token").focus();
  say("Waiting for the token");
  return new Promise((resolve, reject) => {
    at("access").addEventListener("submit", resolve, { once: true, signal });
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  }).finally(() => (at("access").hidden = true));
}

/** Ends waiting without images: what was there before is there still. */
function giveUp(text) {
  say(`${text} ${summary && `Still shown: ${summary}`}`.trim());
}

function fail(error, again) {
  giveUp("");
  if (error.status === 404 || error.status === 503) refresh();
  if (error.field && form.isWrong(error.field, error.message)) return;
  const known = error instanceof api.Refusal || error instanceof api.Unreachable;
  if (!known) console.error(error);
  at("alert").replaceChildren(element("p", { textContent: `${known ? "" : "The page failed: "}${error.message}` }));
  if (!known || !error.status || error.status >= 500)
    at("alert").append(element("button", { type: "button", textContent: "Try again", onclick: again }));
  at("alert").hidden = false;
}

function cancel() {
  if (!form.isOffered()) return;
  for (const controller of running.values()) controller.abort();
  giveUp("Cancelled.");
  if (asked?.towards) at("position").value = asked.towards.position;
  showPosition();
}

// ---- Images

/** Asks for what the form says, with a new seed where the one in it is shown already and is not to be kept. */
function generate() {
  form.nothingIsWrong();
  if (!form.isComplete()) return;
  const spent = asked && !asked.towards && !form.isBetween() && at("seed").value === asked.seed;
  if (spent && !at("keep").checked) at("seed").value = randomSeed();
  const settings = form.settings();
  if (toHash(settings) !== location.hash) history.pushState(null, "", toHash(settings));
  show(settings);
  if (at("results").getBoundingClientRect().top > 0.6 * innerHeight) at("results").scrollIntoView();
}

/** Asks for some settings and shows what comes; `lines` are for the user, beside the server's own remarks. */
function show(settings, lines = []) {
  document.title = `${settings.prompt || settings.model} - ganlib`;
  return during("images", () => show(settings, lines), async (signal) => {
    say("");
    const { pictures, remarks } = await answered(settings, signal);
    clear();
    asked = settings;
    remark([...lines, ...remarks]);
    if (settings.towards) showBetween(pictures[0]);
    else showImages(pictures);
    say(summary);
  });
}

async function answered(settings, signal) {
  const entry = form.served(settings.model);
  const { files, remarks } = await patiently((signal) => api.generate(settings, signal), signal);
  return { remarks, pictures: files.map((bytes, index) => picture(entry, settings, index, bytes)) };
}

function remark(lines) {
  at("remarks").hidden = !lines.length;
  at("remarks").replaceChildren(
    ...lines.map((textContent) => element("p", { textContent })),
  );
}

function showImages(pictures) {
  images = pictures;
  fill(at("grid"), images, ({ seed }) => `Seed ${seed}`);
  fit();
  const { length } = images, last = images.at(-1).seed;
  summary = length === 1 ? `1 image, seed ${last}` : `${length} images, seeds ${asked.seed} to ${last}`;
}

/** Takes away what was shown before. */
function clear() {
  for (const slot of ["slider", "strip"]) running.get(slot)?.abort();
  forget([...images, ...frames, ...(stage ? [stage] : [])]);
  [asked, images, frames, stage, summary] = [null, [], [], null, ""];
  for (const id of ["grid", "strip"]) at(id).replaceChildren();
  for (const id of ["empty", "grid", "between", "strip", "remarks"]) at(id).hidden = true;
}

// ---- Interpolation

function showBetween(first) {
  at("between").hidden = false;
  const { prompt, seed, towards } = asked, to = towards.prompt || prompt;
  at("from-end").textContent = to === prompt ? `Seed ${seed}` : `${prompt}, seed ${seed}`;
  at("to-end").textContent = to === prompt ? `Seed ${towards.seed}` : `${to}, seed ${towards.seed}`;
  put(first);
  fit();
  summary = `Between seed ${seed} and seed ${towards.seed}`;
  if (towards.strip) showStrip();
}

function put(shown) {
  if (stage && !at("dialog").open) forget([stage]);
  stage = shown;
  const image = at("stage").firstElementChild;
  Object.assign(image, { src: stage.url, alt: stage.alt });
  Object.assign(at("stage-download"), { href: stage.url, download: stage.file });
}

function showPosition() {
  const position = at("position").value;
  at("position-value").textContent = percent(position);
  at("position").setAttribute("aria-valuetext", percent(position));
}

/** The image follows the slider: one request at a time, always the newest; one that is overtaken and slow is ended. */
let wanted = null, overtaken = null;

function slide() {
  showPosition();
  if (!stage) return;
  const idle = wanted === null;
  wanted = String(Math.round(at("position").value * 1000) / 1000);
  if (idle) during("slider", slide, follow).finally(() => (wanted = null));
  else if (overtaken && !overtaken.due) overtaken.due = setTimeout(() => overtaken?.abort(), OVERTAKEN);
}

async function follow(signal) {
  await pause(0.03, signal);
  while (asked.towards.position !== wanted) {
    const settings = { ...asked, towards: { ...asked.towards, position: wanted } };
    overtaken = new AbortController();
    try {
      const { pictures } = await answered(settings, AbortSignal.any([signal, overtaken.signal]));
      put(pictures[0]);
      asked = settings;
      say(summary);
    } catch (error) {
      if (error.name !== "AbortError" || signal.aborted) throw error;
    } finally {
      clearTimeout(overtaken.due);
      overtaken = null;
    }
  }
}

/** The whole way in frames, one after another. */
function showStrip() {
  return during("strip", showStrip, async (signal) => {
    forget(frames);
    frames = [];
    at("strip").replaceChildren();
    for (let frame = 0; frame < FRAMES; frame++) {
      const position = String(Math.round((1e4 * frame) / (FRAMES - 1)) / 1e4);
      const { pictures } = await answered({ ...asked, towards: { ...asked.towards, position } }, signal);
      frames.push(pictures[0]);
      fill(at("strip"), frames, ({ asked }) => percent(asked.towards.position));
      fit();
    }
    say(`${FRAMES} frames from seed ${asked.seed} to seed ${asked.towards.seed}`);
  });
}

// ---- Space

function fit() {
  const one = images[0] ?? stage;
  if (!one) return;
  const { width } = one.entry.image_size, { left, width: space } = at("results").getBoundingClientRect();
  const top = at(images[0] ? "grid" : "between").getBoundingClientRect().top + scrollY;
  at("results").classList.toggle("small", isSmall(one.entry));
  const wide = left > 300, height = wide ? Math.max(innerHeight - top - 24, 360) : innerHeight;
  const style = at("results").style;
  const grid = layout(width, images.length, space, height, { least: wide ? 96 : 140 });
  style.setProperty("--tile", `${grid.length}px`);
  style.setProperty("--columns", grid.columns);
  const strip = frames.length ? 190 : 0;
  style.setProperty("--stage", `${layout(width, 1, space, Math.max(height - 190 - strip, 256)).length}px`);
  style.setProperty("--frame", `${layout(width, 1, (space - 70) / 8, Infinity, { most: 160 }).length}px`);
}

// ---- Start, history, models that come and go

function restore() {
  const settings = fromHash(location.hash);
  for (const controller of running.values()) controller.abort();
  if (at("dialog").open) at("dialog").close();
  form.nothingIsWrong();
  const line = form.take(settings ?? {}), lines = line ? [line] : [];
  showPosition();
  if (settings?.seed && form.isComplete()) return show(form.settings(), lines);
  clear();
  remark(lines);
  say("");
  at("empty").hidden = false;
}

async function start() {
  await during("images", start, async (signal) => {
    let models = await patiently(api.models, signal);
    for (; !models.size; models = await patiently(api.models, signal)) {
      const all = await api.ready(signal);
      say(all ? "No model is served yet. The page asks again by itself" : "The models are being loaded");
      await pause(1, signal);
    }
    form.offer(models);
    say("");
  });
  if (!form.isOffered()) return;
  restore();
  watch();
}

/** Offers what has come since; a list that cannot be had now is had at the next occasion. */
async function refresh() {
  const models = await api.models().catch(() => null);
  const line = models?.size && form.offer(models);
  if (line) say(line);
}

/** Until all models are loaded, looks for more. */
async function watch() {
  while (!(await api.ready().catch(() => true))) await new Promise((resolve) => setTimeout(resolve, 2000));
  await refresh();
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useToken(at("token").value);
  at("token").value = "";
}, true);
at("cancel").addEventListener("click", cancel);
addEventListener("keydown", ({ key }) => key === "Escape" && running.size && !at("dialog").open && cancel());
at("position").addEventListener("input", slide);
at("position").addEventListener("change", () => {
  if (!asked?.towards) return;
  const position = String(Math.round(at("position").value * 1000) / 1000);
  history.replaceState(null, "", toHash({ ...asked, towards: { ...asked.towards, position } }));
});
at("strip-wanted").addEventListener("change", ({ target }) => {
  if (!asked?.towards) return;
  asked = { ...asked, towards: { ...asked.towards, strip: target.checked } };
  history.replaceState(null, "", toHash(asked));
  if (target.checked) return showStrip();
  running.get("strip")?.abort();
  at("strip").hidden = true;
});
at("stage").addEventListener("click", () => open([stage], 0, () => at("stage")));
at("use-seed").addEventListener("click", () => {
  const { seed } = current();
  at("seed").value = seed;
  at("keep").checked = true;
  leave(at("seed"));
  say(`Seed ${seed} stands in the form`);
});
at("go-on").addEventListener("click", () => {
  const { asked } = current();
  leave(at("results"));
  form.take({ ...asked, towards: { position: "0.5", strip: false } });
  showPosition();
  generate();
});
addEventListener("resize", fit);
addEventListener("popstate", () => form.isOffered() && restore());
document.addEventListener("visibilitychange", () => !document.hidden && form.isOffered() && refresh());
start();
