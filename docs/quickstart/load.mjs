// SPDX-License-Identifier: Apache-2.0
import { createHash, createHmac, randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const { JOB_ID, JOB_SECRET_KEY, JOB_HOOK } = process.env;

async function report(fields) {
  const body = JSON.stringify(fields), nonce = randomBytes(16).toString("hex");
  const digest = createHash("sha256").update(body).digest("hex");
  for (let pause = 250; ; pause *= 2) {
    const time = String(Date.now());
    const toSign = ["JOB-HMAC-SHA256-V2", JOB_ID, time, nonce, "POST", "/status", "", digest].join("\n");
    const signature = "v2=" + createHmac("sha256", JOB_SECRET_KEY).update(toSign).digest("hex");
    const headers = {
      "Content-Type": "application/json",
      "X-Job-Id": JOB_ID, "X-Job-Time": time, "X-Job-Nonce": nonce, "X-Job-Signature": signature,
    };
    const answer = await fetch(JOB_HOOK + "/status", { method: "POST", body, headers }).catch(() => null);
    const text = (await answer?.text().catch(() => "")) ?? "no answer";
    if (answer?.ok && text.startsWith("{")) return JSON.parse(text); // the action; its action is "STOP" to stop
    const mayPass = !answer || answer.ok || [408, 429].includes(answer.status) || answer.status >= 500;
    if (!mayPass || pause > 60_000) throw new Error(`${answer?.status ?? 0}: ${text}`);
    await sleep(pause * (0.5 + Math.random() / 2));
  }
}

const { arguments: { table } } = await report({ status: "RUNNING" });
for (const progress of [25, 50, 75]) {
  await sleep(1000); // the work
  await report({ statusDetails: { progress, message: "loading" }, logs: [`loaded a part of ${table}`] });
}
await report({ status: "SUCCESS", results: { rows: 1200 } });
