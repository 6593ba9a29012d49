// What is asked for, as a link holds it. It stands behind the #, so that prompts do not get into the logs of what lies
// between a browser and the server.
//
// {model: "NAME@VERSION", prompt, seed, count, truncation, towards}: text all, as it was typed; a class stands in
// `prompt`. `towards` is null, or the other end of an interpolation: {seed, prompt, position, strip: boolean}.

export function toHash({ model, prompt, seed, count, truncation, towards }) {
  const fields = new URLSearchParams({ model });
  if (prompt) fields.set("prompt", prompt);
  fields.set("seed", seed);
  if (!towards) fields.set("count", count);
  fields.set("truncation", truncation);
  if (towards) {
    fields.set("to_seed", towards.seed);
    if (towards.prompt) fields.set("to_prompt", towards.prompt);
    fields.set("position", towards.position);
    if (towards.strip) fields.set("strip", "8");
  }
  return `#${fields}`;
}

/** The settings of a link; null where it holds none. What it leaves out is undefined. */
export function fromHash(hash) {
  const fields = new URLSearchParams(hash.slice(1));
  if (!fields.size) return null;
  const get = (field) => fields.get(field) ?? undefined;
  const towards = fields.has("position") && {
    seed: get("to_seed"),
    prompt: get("to_prompt"),
    position: get("position"),
    strip: fields.has("strip"),
  };
  return {
    model: get("model"),
    prompt: get("prompt"),
    seed: get("seed"),
    count: get("count"),
    truncation: get("truncation"),
    towards: towards || null,
  };
}

/** 32 bits as digits: short enough to be typed again. */
export const randomSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0]);

/** The seed that stands so far behind another. */
export const seedAfter = (seed, steps) => String(BigInt(seed) + BigInt(steps));
