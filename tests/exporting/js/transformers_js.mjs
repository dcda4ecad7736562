// What the pipeline of transformers.js answers: node transformers_js.mjs FOLDER NAME IMAGE [DTYPE]
import { env, pipeline } from "@huggingface/transformers";

const [, , folder, name, image, dtype] = process.argv;
env.allowRemoteModels = false;
env.localModelPath = folder;
const classify = await pipeline("image-classification", name, dtype ? { dtype } : {});
const ranked = await classify(image, { top_k: 100 });
console.log(JSON.stringify(Object.fromEntries(ranked.map(({ label, score }) => [label, score]))));
