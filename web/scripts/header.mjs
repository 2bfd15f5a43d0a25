// Says in the generated file where it comes from.
import { readFileSync, writeFileSync } from "node:fs";

const file = new URL("../src/api/schema.d.ts", import.meta.url);
writeFileSync(file, `/* Generated from openapi.json by "npm run types". Do not edit. */\n${readFileSync(file, "utf8")}`);
