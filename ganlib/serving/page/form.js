// The form: it follows the chosen model, reads and takes settings (see settings.js), and shows what is wrong at a field.

import { describe, element } from "./pictures.js";
import { randomSeed } from "./settings.js";

const MANY = 30; // classes; beyond, one is typed rather than searched for in a list

const at = (id) => document.getElementById(id);
let catalogue = new Map();

/** Offers other models and keeps the choice. Returns a line for the user where it is served no more, else null. */
export function offer(models) {
  const [name, version] = [at("model").value, at("version").value];
  catalogue = models;
  options(at("model"), [...models.keys()].map((each) => [each, each]));
  if (models.has(name)) at("model").value = name;
  offerVersions(models.has(name) ? version : undefined);
  at("fields").disabled = false;
  at("count").value ||= Math.min(8, chosen().largest_count);
  return version && chosen().id !== `${name}@${version}` ? `${name}@${version} is served no more.` : null;
}

export const isOffered = () => catalogue.size > 0;

/** The model that is chosen, as /v1/models describes it. */
export const chosen = () => served(`${at("model").value}@${at("version").value}`);

/** A served model by NAME@VERSION; undefined where it is served no more. */
export const served = (id) => [...catalogue.values()].flat().find((each) => each.id === id);

export const isBetween = () => at("mode-between").checked;

export function settings() {
  const model = chosen();
  const prompt = { none: "", class: classField(model).value, text: at("prompt").value.trim() }[model.condition];
  const towards = isBetween() && {
    seed: at("to_seed").value.trim(),
    prompt: model.condition === "text" ? at("to_prompt").value.trim() : "",
    position: at("position").value,
    strip: at("strip-wanted").checked,
  };
  const [seed, count, truncation] = ["seed", "count", "truncation"].map((id) => at(id).value.trim());
  return { model: model.id, prompt, seed, count: towards ? "1" : count, truncation, towards: towards || null };
}

/** Fills the form. Returns a line for the user where the link's model is not served, else null. */
export function take({ model, prompt, seed, count, truncation, towards }) {
  let remark = null;
  if (model) {
    const cut = model.lastIndexOf("@"), name = served(model) || cut > 0 ? model.slice(0, cut) : model;
    if (catalogue.has(name)) {
      at("model").value = name;
      offerVersions(model.slice(cut + 1));
      const { id, version } = chosen();
      if (id !== model && cut > 0)
        remark = `${model} is served no more; this is version ${version}, which draws other images.`;
    } else remark = `${model} is not served here; the link's settings now go to ${at("model").value}.`;
    follow();
  }
  if (prompt !== undefined) {
    at("prompt").value = prompt;
    const { name, condition, classes } = chosen();
    classField(chosen()).value = prompt;
    if (condition === "class" && !classes.includes(prompt)) remark ??= `${name} knows no class "${prompt}".`;
  }
  at("seed").value = seed ?? randomSeed();
  if (count) at("count").value = count;
  if (truncation) at("truncation").value = at("truncation-slider").value = truncation;
  at(towards ? "mode-between" : "mode-images").checked = true;
  if (towards) {
    at("to_seed").value = towards.seed ?? randomSeed();
    at("to_prompt").value = towards.prompt ?? "";
    at("position").value = towards.position ?? "0.5";
    at("strip-wanted").checked = towards.strip;
  }
  follow();
  return remark;
}

/** Whether everything is filled in; where not, the browser says so at the field. */
export function isComplete() {
  const typed = at("class-typed"), known = chosen().classes?.includes(typed.value);
  typed.setCustomValidity(typed.hidden || known ? "" : "Choose one of the classes that are offered while you type");
  return at("form").reportValidity();
}

/** Shows a line at the field that the server named; false where there is no such field in sight. */
export function isWrong(field, message) {
  const id = field === "n" ? "count" : field;
  const input = id === "prompt" && chosen().condition === "class" ? classField(chosen()) : at(id);
  if (!input?.closest("#form") || !input.checkVisibility()) return false;
  const line = element("p", { className: "wrong", id: `${id}-wrong`, role: "alert" });
  input.closest(".field").append(line);
  line.textContent = message.replace(`${field}: `, "");
  input.ariaInvalid = "true";
  input.setAttribute("aria-errormessage", line.id);
  input.focus();
  return true;
}

export function nothingIsWrong() {
  at("class-typed").setCustomValidity("");
  document.querySelectorAll(".wrong").forEach((line) => line.remove());
  document.querySelectorAll("[aria-invalid]").forEach((input) => {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-errormessage");
  });
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

function offerVersions(version) {
  const versions = catalogue.get(at("model").value);
  options(at("version"), versions.map((each) => [each.version, each.version + (each.current ? " (current)" : "")]));
  const kept = versions.find((each) => each.version === version) ?? versions.find((each) => each.current) ?? versions[0];
  at("version").value = kept.version;
  follow();
}

const classField = (model) => at((model.classes ?? []).length > MANY ? "class-typed" : "class");

/** Shows the fields that the model and the mode need. */
function follow() {
  const model = chosen(), { condition } = model, classes = model.classes ?? [], field = classField(model);
  for (const [id, there] of Object.entries({
    "for-prompt": condition === "text",
    "for-class": condition === "class",
    "for-to_prompt": condition === "text" && isBetween(),
    "for-to_seed": isBetween(),
    "for-count": !isBetween(),
    "for-keep": !isBetween(),
  }))
    at(id).hidden = !there;
  for (const id of ["class", "class-typed"]) at(id).hidden = at(id) !== field;
  at("class-label").htmlFor = field.id;
  const list = field.id === "class" ? field : at("class-names"), kept = field.value;
  if ([...list.children].map((each) => each.value).join("\n") !== classes.join("\n")) {
    options(list, classes.map((each) => [each, each]));
    if (classes.includes(kept)) field.value = kept;
  }
  at("prompt").required = condition === "text";
  at("class").required = condition === "class" && field.id === "class";
  at("to_seed").required = isBetween();
  at("count").required = !isBetween();
  at("count").max = model.largest_count;
  const { width, height, channels } = model.image_size;
  describe(at("about").querySelector("dl"), [
    ["Family", model.family],
    ["Images", `${width} × ${height}, ${channels === 1 ? "grey" : "colour"}`],
    ["Precision", model.precision],
    ["Runs on", model.device],
    ["Licence", model.licence],
    ...Object.entries(model.metrics ?? {}).map(([name, value]) => [name.replaceAll(/[_/]/g, " "), String(Number(value.toPrecision(4)))]),
  ]);
  at("about").hidden = false;
}

at("model").addEventListener("change", () => offerVersions());
for (const id of ["version", "mode-images", "mode-between"]) at(id).addEventListener("change", follow);
at("form").addEventListener("input", nothingIsWrong);
at("seed").addEventListener("input", () => (at("keep").checked = true));
at("dice").addEventListener("click", () => (at("seed").value = randomSeed()));
at("to_dice").addEventListener("click", () => (at("to_seed").value = randomSeed()));
at("truncation-slider").addEventListener("input", ({ target }) => (at("truncation").value = target.value));
at("truncation").addEventListener("input", ({ target }) => (at("truncation-slider").value = target.value));
at("class-typed").addEventListener("focus", ({ target }) => target.select());
for (const id of ["prompt", "to_prompt"])
  at(id).addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    at("form").requestSubmit();
  });
