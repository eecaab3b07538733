// Vercel's AI SDK with both of its providers: node ai_sdk_edits.mjs MODULES URL DIRECT_URL KEY FOLDER
// MODULES is the node_modules folder that has it; DIRECT_URL is the server that is behind URL.
// Prints one JSON object: case → what came of it.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, url, direct, apiKey, folder] = process.argv.slice(2);
const require = createRequire(path.join(modules, "package.json"));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { generateImage } = await load("ai");
const { createOpenAI } = await load("@ai-sdk/openai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");

const photo = fs.readFileSync(path.join(folder, "photo.jpg"));
const mask = fs.readFileSync(path.join(folder, "mask.png"));
const text = "make it a drawing";
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey });
const compatible = createOpenAICompatible({ name: "qwen", baseURL: `${url}/v1`, apiKey });
const models = { openai: openai.image("qwen-image-edit"), compatible: compatible.imageModel("qwen-image-edit") };

const edit = (model, given = {}) =>
  generateImage({ model, prompt: { images: [photo], text }, size: "64x64", maxRetries: 0, ...given });
const own = (fields) => ({ providerOptions: { qwen: fields } });

const underWay = async () => {
  for (;;) {
    const metrics = await (await fetch(`${direct}/metrics`)).text();
    if (/^shim_edits_in_flight [1-9]/m.test(metrics)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};

const cases = {
  "openai: edit": () => edit(models.openai),
  "openai: mask": () => edit(models.openai, { prompt: { images: [photo], text, mask }, size: undefined }),
  "openai: n=2": () => edit(models.openai, { n: 2 }),
  "openai: n=2, named like OpenAI's": () => edit(openai.image("gpt-image-2"), { n: 2 }),
  "openai: own fields": () => edit(models.openai, { seed: 7, providerOptions: { openai: { steps: 4 } } }),
  "openai: refused": () => edit(models.openai, { size: "12x12" }),
  "compatible: edit": () => edit(models.compatible, own({ seed: 7, steps: 3 })),
  "compatible: mask": () => edit(models.compatible, { prompt: { images: [photo], text, mask }, size: undefined }),
  "compatible: two pictures, n=2": () => edit(models.compatible, { prompt: { images: [photo, photo], text }, n: 2 }),
  "compatible: refused": () => edit(models.compatible, { size: "12x12" }),
  "compatible: abort": async () => {
    const controller = new AbortController();
    const fields = own({ steps: 100 });
    const answer = edit(models.compatible, { size: "1024x1024", abortSignal: controller.signal, ...fields });
    await underWay();
    controller.abort();
    return answer;
  },
};

const outcome = async (run) => {
  try {
    const { images, warnings, usage } = await run();
    return { pictures: images.map((image) => image.mediaType), warnings: warnings.length, tokens: usage.totalTokens };
  } catch (error) {
    return { error: error.name, status: error.statusCode, message: error.message };
  }
};

const outcomes = {};
for (const [name, run] of Object.entries(cases)) outcomes[name] = await outcome(run);
console.log(JSON.stringify(outcomes));
