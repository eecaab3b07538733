// OpenAI's Node SDK: node openai_edits.cjs URL KEY PICTURE MASK, with NODE_PATH naming its node_modules.
// Prints one JSON object: case → what came of it.
const fs = require("node:fs");
const OpenAI = require("openai");

const [url, apiKey, picture, mask] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const edit = { prompt: "make it\na drawing", size: "64x64", seed: 7, steps: 4 };
const bytes = fs.readFileSync(picture);

const pictures = (answer) => answer.data.map((item) => item.b64_json);
const events = async (stream) => {
  const seen = [];
  for await (const event of stream) seen.push({ type: event.type, b64_json: event.b64_json });
  return seen;
};

const cases = {
  "file stream": async () => pictures(await client.images.edit({ ...edit, image: fs.createReadStream(picture) })),
  "toFile": async () => pictures(await client.images.edit({ ...edit, image: await OpenAI.toFile(bytes) })),
  "toFile with a name and a type": async () => {
    const image = await OpenAI.toFile(bytes, "日本.png", { type: "image/png" });
    return pictures(await client.images.edit({ ...edit, image }));
  },
  "File": async () => pictures(await client.images.edit({ ...edit, image: new File([bytes], "f.png") })),
  "array of one": async () => pictures(await client.images.edit({ ...edit, image: [fs.createReadStream(picture)] })),
  "array of two": async () => {
    const image = [fs.createReadStream(picture), fs.createReadStream(picture)];
    const answer = await client.images.edit({ ...edit, image, n: 2 });
    return { pictures: pictures(answer).length, images: answer.usage.input_images };
  },
  "mask": async () => {
    const image = fs.createReadStream(picture);
    const { size, ...rest } = edit;
    return pictures(await client.images.edit({ ...rest, image, mask: fs.createReadStream(mask) }));
  },
  "stream": async () => {
    const image = fs.createReadStream(picture);
    return events(await client.images.edit({ ...edit, image, stream: true, partial_images: 2 }));
  },
  "prompt with carriage returns": async () => {
    const prompt = edit.prompt.replaceAll("\n", "\r\n");
    return pictures(await client.images.edit({ ...edit, prompt, image: fs.createReadStream(picture) }));
  },
  "Buffer": () => client.images.edit({ ...edit, image: bytes.subarray(0, 200) }),
  "bad size": () => client.images.edit({ ...edit, image: fs.createReadStream(picture), size: "12x12" }),
  "bad size in a stream": () =>
    client.images.edit({ ...edit, image: fs.createReadStream(picture), size: "12x12", stream: true }),
};

const outcome = async (run) => {
  try {
    return { answer: await run() };
  } catch (error) {
    return { error: error.message, status: error.status, code: error.code, param: error.param, id: error.requestID };
  }
};

(async () => {
  const outcomes = {};
  for (const [name, run] of Object.entries(cases)) outcomes[name] = await outcome(run);
  console.log(JSON.stringify(outcomes));
})();
