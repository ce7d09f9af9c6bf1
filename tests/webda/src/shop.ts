// SPDX-License-Identifier: Apache-2.0
import { Operation, OperationContext, Service } from "@webda/core";

export interface Order {
  article: string;
  count: number;
}

export interface Receipt {
  article: string;
  total: number;
}

/**
 * Methods for jobs, and an operation, as any webda application has them. It knows nothing of Airflow.
 *
 * @WebdaModda
 */
export class ShopService extends Service {
  async add(a: number, b: number): Promise<number> {
    return a + b;
  }

  async sell(article: string): Promise<void> {
    throw new Error(`${article} is sold out`);
  }

  async wait(seconds: number): Promise<void> {
    console.log("waiting");
    await new Promise(resolve => setTimeout(resolve, 1000 * seconds));
  }

  @Operation({ permission: "roles CONTAINS 'seller'" })
  async order(context: OperationContext<Order, Receipt>): Promise<void> {
    const { article, count } = await context.getInput();
    if (count <= 0) {
      throw new RangeError(`There are no ${count} of ${article}`);
    }
    context.write({ article, total: 3 * count });
  }
}

export default ShopService;
