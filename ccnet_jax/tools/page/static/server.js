// What the page asks its server, and how answers are read.

/** The answer to a request. Throws an Error whose message is a message for the user. */
async function ask(path, query = {}, options = {}) {
  let answer;
  try {
    answer = await fetch(address(path, query), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the program does not answer: start it again, then reload this page");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error ?? `the program answered with the code ${answer.status}`);
}

/** A path with a query; what is null stays out. */
export function address(path, query) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

export const about = async () => (await ask("about")).json();

/** Hand over the file (a Blob), or name one of the run's own images by its number. */
export const addImage = async (file) => (await ask("images", {}, { method: "POST", body: file })).json();
export const addOwn = async (own) => (await ask("images", { own }, { method: "POST" })).json();

/** An ImageBitmap of an image that was handed over. */
export async function imageOf(image) {
  const answer = await ask("images", { image });
  return createImageBitmap(await answer.blob());
}

/** {head, planes}: see `pack` in answers.py. */
export async function askPlanes(path, query, signal) {
  const answer = await ask(path, query, { method: "POST", signal });
  const buffer = await answer.arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const size = head.height * head.width;
  const planes = [];
  for (let start = 4 + length; start + size <= buffer.byteLength; start += size) {
    planes.push(new Uint8Array(buffer, start, size));
  }
  return { head, planes };
}
