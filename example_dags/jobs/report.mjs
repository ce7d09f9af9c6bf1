// SPDX-License-Identifier: Apache-2.0
// Reports progress, log lines and a result from Node.js. Needs only built-in modules.
import { createHash, createHmac, randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const { JOB_ID, JOB_SECRET_KEY, JOB_HOOK } = process.env;
const RESEND_MS = 330_000; // how long to resend a report
let clockOffsetMs = 0;

// Sends one signed report. Status 0 means that there was no response.
async function post(body, nonce) {
  const time = String(Date.now() + clockOffsetMs);
  const digest = createHash("sha256").update(body).digest("hex");
  const text = ["JOB-HMAC-SHA256-V2", JOB_ID, time, nonce, "POST", "/status", "", digest].join("\n");
  const signature = createHmac("sha256", JOB_SECRET_KEY).update(text).digest("hex");
  const headers = {
    "Content-Type": "application/json",
    "X-Job-Id": JOB_ID,
    "X-Job-Time": time,
    "X-Job-Nonce": nonce,
    "X-Job-Signature": "v2=" + signature,
  };
  try {
    const answer = await fetch(JOB_HOOK + "/status", { method: "POST", body, headers });
    const waitMs = 1000 * Number(answer.headers.get("retry-after")) || 0;
    return { status: answer.status, text: await answer.text(), waitMs };
  } catch (error) {
    return { status: 0, text: String(error.cause ?? error), waitMs: 0 };
  }
}

// Parses a JSON object. Returns null if the text is something else.
function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

// Sends a report, resends it after transient errors, and returns the action.
async function report(fields) {
  const body = JSON.stringify(fields);
  const nonce = randomBytes(16).toString("hex");
  const deadline = Date.now() + RESEND_MS;
  let isCorrected = false;
  for (let pauseMs = 250; ; pauseMs = Math.min(2 * pauseMs, 15_000)) {
    const { status, text, waitMs } = await post(body, nonce);
    const answer = parseObject(text);
    const isOk = status >= 200 && status < 300;
    if (isOk && answer) return answer;
    if (status === 401 && !isCorrected && answer?.error === "stale_time") {
      isCorrected = true;
      clockOffsetMs = answer.serverTime - Date.now();
      continue;
    }
    const isServerError = status >= 500 && answer?.error !== "no_space";
    const shouldResend = status === 0 || isOk || status === 408 || status === 429 || isServerError; // isOk: a captive portal
    if (!shouldResend || Date.now() > deadline) throw new Error(`${JOB_HOOK} returned ${status}: ${text}`);
    await sleep(Math.max(waitMs, pauseMs * (0.5 + Math.random() / 2)));
  }
}

const { arguments: { words } } = await report({ status: "RUNNING", agent: { node: process.version } });
let letters = 0;
for (const [index, word] of words.entries()) {
  letters += word.length;
  await report({
    statusDetails: { progress: (100 * (index + 1)) / words.length, message: word },
    logs: [{ time: Date.now(), level: "INFO", message: `counted ${word}` }],
  });
  await sleep(700);
}
await report({ status: "SUCCESS", results: { words: words.length, letters } });
