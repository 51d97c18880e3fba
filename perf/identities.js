// Requests with one header of many values, by a fixed number of callers: perf/identities.py.
import http from "k6/http";
import { check } from "k6";
import { SharedArray } from "k6/data";

const values = new SharedArray("values", () => JSON.parse(open(__ENV.VALUES)));
const name = __ENV.HEADER;

export const options = {
  scenarios: {
    callers: { executor: "constant-vus", vus: Number(__ENV.CALLERS), duration: `${__ENV.SECONDS}s` },
  },
  summaryTrendStats: ["med", "p(95)", "p(99)", "max", "count"],
  thresholds: { checks: ["rate==1"] },
};

export default function () {
  const headers = name ? { [name]: values[(__VU * 9973 + __ITER) % values.length] } : {};
  const answer = http.get(__ENV.URL, { headers });
  check(answer, { "the answer is 200": (got) => got.status === 200 });
}

export function handleSummary(data) {
  return { [__ENV.RESULT]: JSON.stringify(data.metrics) };
}
