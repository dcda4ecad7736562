// What onnxruntime-web answers for exported files, in Node and in a browser: node onnxruntime_web.mjs FOLDER

export async function answers(ort, read) {
  const jobs = JSON.parse(new TextDecoder().decode(await read("jobs.json")));
  const found = {};
  for (const { name, input, dtype, shape } of jobs) {
    const session = await ort.InferenceSession.create(await read(`${name}.onnx`));
    const bytes = await read(`${name}.bin`);
    const numbers = dtype === "uint8" ? bytes : new Float32Array(bytes.slice().buffer);
    const outputs = await session.run({ [input]: new ort.Tensor(dtype, numbers, shape) });
    found[name] = Object.fromEntries(Object.entries(outputs).map(([key, { data }]) => [key, Array.from(data)]));
  }
  return found;
}

if (globalThis.process?.argv[1]?.endsWith("onnxruntime_web.mjs")) {
  const { readFile } = await import("node:fs/promises");
  const read = async (name) => new Uint8Array(await readFile(`${process.argv[2]}/${name}`));
  console.log(JSON.stringify(await answers(await import("onnxruntime-web"), read)));
}
