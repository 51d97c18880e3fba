// What our filters add to a request: each iteration sends the same request through a bare Envoy and through a guarded
// one, in alternating order, and records the difference, bounded in rate and time.
// A limiter that fails open would look fast: where LIMITED is set, every guarded answer must tell its limit. Environment:
// GUARDED, BARE (URLs), HEADERS (JSON: those of `bare`, of `guarded`), RATE (iterations a second), SECONDS, RESULT (file of the summary).
import http from 'k6/http';
import { check } from 'k6';
import { Trend } from 'k6/metrics';

const added = new Trend('added_latency', true);
const guarded = new Trend('guarded_latency', true);
const bare = new Trend('bare_latency', true);
const seconds = Number(__ENV.SECONDS);

export const options = {
  scenarios: {
    steady: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE),
      timeUnit: '1s',
      duration: `${seconds}s`,
      preAllocatedVUs: 20,
      maxVUs: 50,
    },
  },
  thresholds: {
    added_latency: ['p(95)<10'],
    guarded_latency: ['p(95)<200'],
    checks: ['rate==1'],
  },
  summaryTrendStats: ['min', 'med', 'p(95)', 'p(99)', 'max'],
};

const headers = JSON.parse(__ENV.HEADERS);

const allowed = { 'status is 200': (r) => r.status === 200 };
const counted = { ...allowed, 'its limit is told': (r) => 'X-Ratelimit-Limit' in r.headers };

function ask(url, trend, own) {
  const response = http.get(url, { headers: own });
  if (!check(response, __ENV.LIMITED && trend === guarded ? counted : allowed)) {
    console.error(`${url} answered ${response.status}, ${JSON.stringify(response.headers)}: ${response.body}`);
  }
  trend.add(response.timings.duration);
  return response.timings.duration;
}

export default function iteration() {
  let difference;
  if (__ITER % 2 === 0) {
    const without = ask(__ENV.BARE, bare, headers.bare);
    difference = ask(__ENV.GUARDED, guarded, headers.guarded) - without;
  } else {
    difference = ask(__ENV.GUARDED, guarded, headers.guarded);
    difference -= ask(__ENV.BARE, bare, headers.bare);
  }
  added.add(difference);
}

export function handleSummary(data) {
  return { [__ENV.RESULT]: JSON.stringify(data.metrics) };
}
