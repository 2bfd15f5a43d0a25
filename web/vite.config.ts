import { copyFileSync, mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

const out = fileURLToPath(new URL("../src/gristmill/web/static", import.meta.url));
const editor = fileURLToPath(new URL("node_modules/@heartexlabs/label-studio", import.meta.url));

/** The Label Studio editor is a finished bundle with its own React: it is copied as it is, and loaded only when asked for. */
function labelStudio(): Plugin {
  return {
    name: "label-studio-editor",
    apply: "build",
    closeBundle() {
      mkdirSync(`${out}/editor`, { recursive: true });
      copyFileSync(`${editor}/build/static/js/main.js`, `${out}/editor/editor.js`);
      copyFileSync(`${editor}/build/static/css/main.css`, `${out}/editor/editor.css`);
      copyFileSync(`${editor}/LICENSE`, `${out}/editor/LICENSE`);
    },
  };
}

export default defineConfig({
  plugins: [react(), labelStudio()],
  build: { outDir: out, emptyOutDir: true, target: "es2022", sourcemap: false, assetsInlineLimit: 0 },
  server: {
    port: 7374,
    proxy: { "/api": { target: process.env.GRISTMILL_API ?? "http://127.0.0.1:7373", ws: true } },
  },
});
