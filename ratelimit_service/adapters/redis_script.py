"""The Lua script that counts in Redis, atomically: the twin of `core.counter`.

KEYS are the counters of one or several requests, in order; ARGV holds the hits and the seconds to
live of each. The answer has, for each key, its count after, or Redis' error text where that key
can't be counted. A counter gets its time to live when it is created, with its first hits; looking
and taking back create nothing.
"""

from __future__ import annotations

import hashlib

from ratelimit_service.core.counter import COUNT_AT_MOST

SCRIPT = f"""
local at_most = {COUNT_AT_MOST}
local answers = {{}}
for i, key in ipairs(KEYS) do
  local hits = tonumber(ARGV[2 * i - 1])
  local answer
  if hits > 0 then
    answer = redis.pcall('INCRBY', key, ARGV[2 * i - 1])
    if type(answer) == 'number' then
      if answer > at_most then
        answer = redis.call('INCRBY', key, string.format('%.0f', at_most - answer))
      end
      if answer == hits then
        redis.call('EXPIRE', key, ARGV[2 * i])
      end
    end
  else
    answer = redis.pcall('GET', key)
    if type(answer) ~= 'table' then
      local before = tonumber(answer or '0')
      local change = math.max(hits, -(before or 0))
      if before and change ~= 0 then
        answer = redis.pcall('INCRBY', key, string.format('%.0f', change))
      else
        answer = before or 'not a counter'
      end
    end
  end
  if type(answer) == 'table' then
    answer = answer.err
  end
  answers[i] = answer
end
return answers
"""
SCRIPT_DIGEST = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
