-- Append a batch to a stream if it stands where the relay expects it; answer where it stands afterwards.
-- KEYS[1] the stream. ARGV: expected state ('' only asks), '1' to drop everything first, entries to keep,
-- then position, job, cursor, event for each entry.
-- A state is 'none', or last generated id, id and cursor of the last entry; so XTRIM, XDEL, XSETID, FLUSHALL, a foreign
-- entry and another relay's batch each make it another one.

local function state()
  local kind = redis.call('TYPE', KEYS[1])['ok']
  if kind == 'none' then return 'none' end
  if kind ~= 'stream' then return 'key of type ' .. kind end
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  local last, entry = '?', false
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
    if info[i] == 'last-entry' then entry = info[i + 1] end
  end
  if not entry then return last .. ' - -' end
  local cursor = '-'
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'cursor' and string.match(fields[i + 1], '^[%x_]+$') then cursor = string.sub(fields[i + 1], 1, 64) end
  end
  return last .. ' ' .. entry[1] .. ' ' .. cursor
end

local now = state()
if now ~= ARGV[1] then return now end
if ARGV[2] == '1' then
  redis.call('UNLINK', KEYS[1])
  now = 'none'
end
if #ARGV < 4 then return now end

for i = 4, #ARGV, 4 do
  redis.call('XADD', KEYS[1], ARGV[i] .. '-0', 'job', ARGV[i + 1], 'cursor', ARGV[i + 2], 'event', ARGV[i + 3])
end
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[3])
local last = #ARGV - 3
return ARGV[last] .. '-0 ' .. ARGV[last] .. '-0 ' .. ARGV[last + 2]
