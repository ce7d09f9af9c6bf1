// SPDX-License-Identifier: Apache-2.0
// Adds AsyncJobService.runOperation(operationId, input) to a webda application: see webda.py.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const application = createRequire(join(process.cwd(), "package.json"));

/** Import the application's own copy of a package. */
const load = (name) => import(pathToFileURL(application.resolve(name)));

/** Return whether this process is the application: NODE_OPTIONS applies to every Node.js process. */
const isApplication = () => {
  try {
    return Boolean(application.resolve("@webda/async"));
  } catch (error) {
    if (error.code === "MODULE_NOT_FOUND") return false;
    throw error;
  }
};

const parsed = (output) => {
  try {
    return JSON.parse(output);
  } catch {
    return output;
  }
};

if (isApplication()) {
  const { AsyncJobService } = await load("@webda/async");
  const { Session, SimpleOperationContext } = await load("@webda/core");

  /** Run an operation as webda does. Return its return value, or else what it wrote to its context. */
  AsyncJobService.prototype.runOperation = async function (operationId, input) {
    const webda = this.getWebda();
    const operation = webda.operations[operationId];
    if (operation === undefined) throw new Error(`Operation '${operationId}' not found: mismatch app version`);
    // Airflow has checked its own permissions. The operation's permission would refuse a session without a user.
    delete operation.permission;
    const context = new SimpleOperationContext(webda);
    context.setSession(new Session());
    context.setInput(Buffer.from(JSON.stringify(input)));
    const returned = await webda.callOperation(context, operationId);
    await context.end();
    return returned === undefined ? parsed(context.getOutput()) : returned;
  };
}
