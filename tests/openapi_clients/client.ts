// SPDX-License-Identifier: Apache-2.0
// Lists, gets and stops an action with the types that openapi-typescript generates from /async/openapi.json.

import createClient from "openapi-fetch";
import type { components, operations, paths } from "./api.js";

declare const process: { argv: string[] };
declare const console: { log(text: string): void };

type Query = NonNullable<operations["listActions"]["parameters"]["query"]>;
type ShortAction = components["schemas"]["ShortAction"];

const [baseUrl = "", token = "", dag = ""] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

const query: Query = { dag, status: ["STARTING", "RUNNING"], limit: 1 };
const listed = await client.GET("/actions", { params: { query } });
if (listed.error) throw new Error(`${listed.error.error}: ${listed.error.message}`);
const [action]: ShortAction[] = listed.data.actions;
if (!action) throw new Error("No actions match these filters");

const path = { uuid: action.uuid };
const got = await client.GET("/actions/{uuid}", { params: { path } });
const stopped = await client.PUT("/actions/{uuid}/stop", { params: { path } });
const missing = await client.GET("/actions/{uuid}", { params: { path: { uuid: "none" } } });
console.log(
  JSON.stringify({
    uuid: action.uuid,
    arguments: got.data?.arguments,
    verb: stopped.data?.action,
    missing: missing.error?.error,
  }),
);
