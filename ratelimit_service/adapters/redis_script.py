"""The Lua script that counts in Redis, atomically: the twin of `core.counter`.

KEYS are the counters of one or several requests, in order. ARGV holds, for each run of them, its
`Mode`, how many they are, and for each the hits and the seconds to live, followed, unless the mode
is ALWAYS, by the limit and the `Effect`. The answer has, for each key, its count after; or, left
out, a pair of its count and whether it is over (1 or 0); or Redis' error text where it, or another
of its run, can't be counted. A counter gets its time to live when it is created, with its first
hits; looking and taking back create nothing.
"""

from __future__ import annotations

from ratelimit_service.core.counter import COUNT_AT_MOST
from ratelimit_service.core.model import Effect, Mode

SCRIPT = f"""
local count_at_most = {COUNT_AT_MOST}

local function current(key)
  local answer = redis.pcall('GET', key)
  if type(answer) == 'table' then
    return nil, answer.err
  end
  local count = tonumber(answer or '0')
  if not count then
    return nil, 'not a counter'
  end
  return count
end

local function added(key, hits, seconds)
  local count = tonumber(hits)
  local answer, fault
  if count > 0 then
    answer = redis.pcall('INCRBY', key, hits)
    if type(answer) == 'number' then
      if answer > count_at_most then
        answer = redis.call('INCRBY', key, string.format('%.0f', count_at_most - answer))
      end
      if answer == count then
        redis.call('EXPIRE', key, seconds)
      end
    end
  else
    answer, fault = current(key)
    if answer then
      local change = math.max(count, -answer)
      if change ~= 0 then
        answer = redis.pcall('INCRBY', key, string.format('%.0f', change))
      end
    end
  end
  if type(answer) == 'table' then
    return answer.err
  end
  return answer or fault
end

local function left_out(mode, first, number, argument)
  local before, over, after, any_over = {{}}, {{}}, {{}}, false
  local denials, quotas, quotas_over = 0, 0, 0
  for i = 1, number do
    local key = KEYS[first + i - 1]
    local hits = tonumber(ARGV[argument + 4 * i - 4])
    local at_most = tonumber(ARGV[argument + 4 * i - 2])
    local effect = ARGV[argument + 4 * i - 1]
    local count, fault = current(key)
    if not count then
      local refused = {{}}
      for j = 1, number do
        refused[j] = fault
      end
      return refused
    end
    before[i] = count
    local sum = count + hits
    if mode == '{Mode.ALL_OR_NONE:d}' then
      sum = (after[key] or count) + hits
      after[key] = math.max(0, sum)
    end
    over[i] = hits >= 0 and sum > at_most
    any_over = any_over or over[i]
    if over[i] and effect == '{Effect.DENIES:d}' then
      denials = denials + 1
    end
    if effect == '{Effect.QUOTA:d}' then
      quotas = quotas + 1
      if over[i] then
        quotas_over = quotas_over + 1
      end
    end
  end
  local left = {{}}
  if mode == '{Mode.ALL_OR_NONE:d}' then
    if denials > 0 or (quotas > 0 and quotas_over == quotas) then
      for i = 1, number do
        left[i] = {{before[i], over[i] and 1 or 0}}
      end
    end
  elseif any_over then
    for i = 1, number do
      local key = KEYS[first + i - 1]
      local hits = tonumber(ARGV[argument + 4 * i - 4])
      local count = after[key] or before[i]
      if over[i] or hits < 0 then
        after[key] = math.max(0, math.min(count + hits, count_at_most))
      else
        left[i] = {{count, count > tonumber(ARGV[argument + 4 * i - 2]) and 1 or 0}}
      end
    end
  end
  return left
end

local answers, key, argument = {{}}, 1, 1
while key <= #KEYS do
  local mode, number = ARGV[argument], tonumber(ARGV[argument + 1])
  argument = argument + 2
  local left, width = {{}}, 2
  if mode ~= '{Mode.ALWAYS:d}' then
    left, width = left_out(mode, key, number, argument), 4
  end
  for i = 1, number do
    answers[key] = left[i] or added(KEYS[key], ARGV[argument], ARGV[argument + 1])
    key = key + 1
    argument = argument + width
  end
end
return answers
"""
