-- Put snapshots of jobs and the cursor up to which all of them are fresh, if nobody else moved that cursor.
-- KEYS[1] the marker, then one key per job. ARGV: expected marker ('' for none), new marker, seconds to live,
-- then one value per job, '' for a snapshot that is dropped.
local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return now end
for i = 2, #KEYS do
  local value = ARGV[i + 2]
  if value == '' then
    redis.call('UNLINK', KEYS[i])
  else
    redis.call('SET', KEYS[i], value, 'EX', ARGV[3])
  end
end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
