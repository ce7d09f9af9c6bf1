// SPDX-License-Identifier: Apache-2.0
// A job for Node.js, with its built-in modules alone.
import { createHash, createHmac, randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const { JOB_ID, JOB_SECRET_KEY, JOB_HOOK } = process.env;

async function report(fields) {
  const body = JSON.stringify(fields);
  const time = String(Date.now());
  const nonce = randomBytes(16).toString("hex");
  const digest = createHash("sha256").update(body).digest("hex");
  const text = ["JOB-HMAC-SHA256-V2", JOB_ID, time, nonce, "POST", "/status", "", digest].join("\n");
  const signature = createHmac("sha256", JOB_SECRET_KEY).update(text).digest("hex");
  const answer = await fetch(JOB_HOOK + "/status", {
    method: "POST",
    body,
    headers: {
      "Content-Type": "application/json",
      "X-Job-Id": JOB_ID,
      "X-Job-Time": time,
      "X-Job-Nonce": nonce,
      "X-Job-Signature": "v2=" + signature,
    },
  });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return answer.json();
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
