// Prints what a first visit downloads, compressed, and fails above the limit. The editor is apart: it is loaded on demand.
import { readdirSync, readFileSync, statSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT = 300 * 1024;
const root = new URL("../../src/gristmill/web/static/", import.meta.url);
const files = readdirSync(root, { recursive: true }).filter((name) => statSync(new URL(name, root)).isFile());
const packed = (name) => (name.endsWith(".woff2") ? statSync(new URL(name, root)).size : gzipSync(readFileSync(new URL(name, root))).length);

let page = 0;
let editor = 0;
for (const name of files.sort()) {
  const bytes = packed(name);
  if (name.startsWith("editor")) editor += bytes;
  else page += bytes;
  console.log(`${(bytes / 1024).toFixed(1).padStart(8)} KB  ${name}`);
}
console.log(`${(page / 1024).toFixed(1).padStart(8)} KB  the page, compressed (limit ${LIMIT / 1024} KB)`);
console.log(`${(editor / 1024).toFixed(1).padStart(8)} KB  the Label Studio editor, loaded on demand`);
if (page > LIMIT) {
  console.error("The page is too large.");
  process.exit(1);
}
