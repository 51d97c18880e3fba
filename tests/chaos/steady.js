// GET at a steady rate until it is told to end: tests/chaos/test_restarts.py. URL, HOST, KEY, RATE, SECONDS, SUMMARY.
import http from "k6/http";
import { check } from "k6";

export const options = {
  scenarios: {
    steady: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE),
      timeUnit: "1s",
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: 20,
      maxVUs: 60,
      gracefulStop: "5s",
    },
  },
};

const parameters = { headers: { Host: __ENV.HOST, "x-api-key": __ENV.KEY }, timeout: "10s" };

export default function () {
  const answer = http.get(__ENV.URL, parameters);
  if (!check(answer, { "the answer is 200": (got) => got.status === 200 })) {
    console.error(`${answer.status} ${answer.error} ${answer.body}`);
  }
}

export function handleSummary(data) {
  return { [__ENV.SUMMARY]: JSON.stringify(data) };
}
