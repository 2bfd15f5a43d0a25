import { QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/charts.css";
import "./styles/screens.css";
import { cache } from "./api/cache";
import { live } from "./live/frames";
import { keepFresh } from "./live/refresh";
import { router } from "./router";

live.start();
keepFresh(cache);

const place = document.getElementById("page");
if (place) {
  createRoot(place).render(
    <StrictMode>
      <QueryClientProvider client={cache}>
        <RouterProvider router={router} />
      </QueryClientProvider>
    </StrictMode>,
  );
}
