import { preact } from "@preact/preset-vite";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [preact()],
  // `npm run dev` serves the page beside a stack that was started with `make up`.
  server: {
    proxy: {
      "/api": "http://localhost:8080",
      "/results": "http://localhost:8080",
      "/ws": { target: "ws://localhost:8080", ws: true },
    },
  },
  // Everything is a file of our own: the page's policy allows no data: scripts or styles. The
  // bundled packages' licences ask to be handed on with them.
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" },
  },
});
