#!lua name=lunmesh_1
-- What target/cluster/registry.py promises, in Redis: one function for each of its calls.
-- docs/cluster.md has the keys.  A unit's keys carry its UUID as hash tag, those of the members {lunmesh}.
--
--   meta     hash: event, trim; alone: a node whose commands are not all here; and for each node n:NODE epoch, a:NODE acknowledged event, w:NODE count of
--            exclusive entries, f:NODE the highest epoch that is fenced
--   writes   hash: exclusive entries, by "NODE EPOCH SEQUENCE": "START END INFO"
--   reads    hash: the others
--   blocked  hash: by entry, those that it waits for, each with a ';' behind it
--   events   hash: by number "NODE PAYLOAD"
--   document hash: version, document

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function stale()
  return redis.error_reply('STALENODE this epoch of this node is over')
end

local function tag_of(key) return string.match(key, '{(.-)}') end

local function notify(keys, text) redis.call('PUBLISH', 'lunmesh:lun:' .. tag_of(keys[1]), text) end

-- Entries have gone: let those go on that waited for nothing else.
local function wake(keys, gone)
  local blocked = keys[4]
  local all = redis.call('HGETALL', blocked)
  for i = 1, #all, 2 do
    local field, waits = all[i], all[i + 1]
    local left = {}
    for one in string.gmatch(waits, '[^;]+') do
      if not gone[one] then left[#left + 1] = one end
    end
    if #left == 0 then
      redis.call('HDEL', blocked, field)
      local node, _, sequence = string.match(field, '^(%S+) (%d+) (%d+)$')
      redis.call('PUBLISH', 'lunmesh:node:' .. node, 'g ' .. tag_of(keys[1]) .. ' ' .. sequence)
    else
      redis.call('HSET', blocked, field, table.concat(left, ';') .. ';')
    end
  end
end

-- Forget the entries of a node up to an epoch.
local function forget(keys, node, epoch)
  local gone, some = {}, false
  for _, key in ipairs({keys[2], keys[3]}) do
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local owner, of = string.match(field, '^(%S+) (%d+) ')
      if owner == node and tonumber(of) <= epoch then
        redis.call('HDEL', key, field)
        redis.call('HDEL', keys[4], field)
        gone[field] = true
        some = true
      end
    end
  end
  if some then wake(keys, gone) end
end

local function trim(keys)
  local meta = keys[1]
  local all = redis.call('HGETALL', meta)
  local least, last, done = nil, 0, 0
  for i = 1, #all, 2 do
    local field, value = all[i], all[i + 1]
    if string.sub(field, 1, 2) == 'a:' then
      local number = tonumber(value)
      if least == nil or number < least then least = number end
    elseif field == 'event' then last = tonumber(value)
    elseif field == 'trim' then done = tonumber(value) end
  end
  least = least or last
  for number = done + 1, least do redis.call('HDEL', keys[5], number) end
  if least > done then redis.call('HSET', meta, 'trim', least) end
end

local function drop(keys, node)
  redis.call('HDEL', keys[1], 'n:' .. node, 'a:' .. node, 'w:' .. node)
  if redis.call('HGET', keys[1], 'alone') == node then redis.call('HDEL', keys[1], 'alone') end
  trim(keys)
  notify(keys, 'd ' .. node)
end

local function is_stale(keys, node, epoch)
  return redis.call('HGET', keys[1], 'n:' .. node) ~= epoch
end

local function acknowledged(keys, node, number)
  redis.call('HSET', keys[1], 'a:' .. node, number)
  trim(keys)
  notify(keys, 'a ' .. node .. ' ' .. number)
end

local function tell(keys, node, payload)
  local number = redis.call('HINCRBY', keys[1], 'event', 1)
  redis.call('HSET', keys[5], number, node .. ' ' .. payload)
  notify(keys, 'e ' .. number .. ' ' .. node .. ' ' .. payload)
  return number
end

local function attach(keys, args)
  local node, epoch = args[1], args[2]
  local fenced = tonumber(redis.call('HGET', keys[1], 'f:' .. node) or '0')
  if fenced >= tonumber(epoch) then return stale() end
  local at = redis.call('HGET', keys[1], 'n:' .. node)
  local event = tonumber(redis.call('HGET', keys[1], 'event') or '0')
  if at and at ~= epoch then
    if tonumber(at) > tonumber(epoch) then return stale() end
    return {event, tonumber(at), ''}
  end
  local lone = redis.call('HGET', keys[1], 'alone') or ''
  if lone == node then lone = '' end
  if lone ~= '' then event = tell(keys, node, args[3]) end
  if not at then
    redis.call('HSET', keys[1], 'n:' .. node, epoch, 'a:' .. node, event, 'w:' .. node, 0)
  else
    acknowledged(keys, node, event)  -- the answer to the first call was lost
  end
  return {event, 0, lone}
end

local function alone(keys, args)
  local meta, node, epoch = keys[1], args[1], args[2]
  if is_stale(keys, node, epoch) then return stale() end
  local nodes = 0
  if args[3] == '1' then
    for _, field in ipairs(redis.call('HKEYS', meta)) do
      if string.sub(field, 1, 2) == 'n:' then nodes = nodes + 1 end
    end
    if nodes == 1 then
      redis.call('HSET', meta, 'alone', node)
      return 1
    end
  end
  if redis.call('HGET', meta, 'alone') == node then redis.call('HDEL', meta, 'alone') end
  return 0
end

local function detach(keys, args)
  local node, epoch = args[1], args[2]
  if is_stale(keys, node, epoch) then return 0 end
  forget(keys, node, tonumber(epoch))
  drop(keys, node)
  return 1
end

local function submit(keys, args)
  local node, epoch = args[1], args[2]
  if is_stale(keys, node, epoch) then return stale() end
  local meta, writes, reads, blocked = keys[1], keys[2], keys[3], keys[4]
  local prefix = node .. ' ' .. epoch .. ' '
  local at = 4
  local settled = tonumber(args[3])
  if settled > 0 then
    local fields, gone = {}, {}
    for i = 1, settled do
      fields[i] = prefix .. args[at]
      gone[fields[i]] = true
      at = at + 1
    end
    redis.call('HDEL', reads, unpack(fields))
    local count = redis.call('HDEL', writes, unpack(fields))
    if count > 0 then
      redis.call('HINCRBY', meta, 'w:' .. node, -count)
      if redis.call('HLEN', blocked) > 0 then
        redis.call('HDEL', blocked, unpack(fields))
        wake(keys, gone)
      end
    end
  end
  local waits = {}
  if at > #args then return waits end
  -- The exclusive entries of others, if there are any: as a rule there are none.
  local others = {}
  if redis.call('HLEN', writes) > tonumber(redis.call('HGET', meta, 'w:' .. node)) then
    local all, own = redis.call('HGETALL', writes), node .. ' '
    for i = 1, #all, 2 do
      if string.sub(all[i], 1, #own) ~= own then
        local first, last = string.match(all[i + 1], '^(%d+) (%d+) ')
        others[#others + 1] = {all[i], tonumber(first), tonumber(last)}
      end
    end
  end
  local new_reads, new_writes = {}, {}
  while at <= #args do
    local sequence, exclusive, first, last, info =
      args[at], args[at + 1], args[at + 2], args[at + 3], args[at + 4]
    at = at + 5
    local field, value = prefix .. sequence, first .. ' ' .. last .. ' ' .. info
    if exclusive == '0' then
      new_reads[#new_reads + 1] = field
      new_reads[#new_reads + 1] = value
    else
      new_writes[#new_writes + 1] = field
      new_writes[#new_writes + 1] = value
      if #others > 0 and redis.call('HEXISTS', writes, field) == 0 then
        local start, stop, before = tonumber(first), tonumber(last), {}
        for _, other in ipairs(others) do
          if other[2] < stop and start < other[3] then before[#before + 1] = other[1] end
        end
        if #before > 0 then
          redis.call('HSET', blocked, field, table.concat(before, ';') .. ';')
        end
      end
      if redis.call('HEXISTS', blocked, field) == 1 then waits[#waits + 1] = tonumber(sequence) end
    end
  end
  if #new_reads > 0 then redis.call('HSET', reads, unpack(new_reads)) end
  if #new_writes > 0 then
    local added = redis.call('HSET', writes, unpack(new_writes))
    redis.call('HINCRBY', meta, 'w:' .. node, added)
  end
  return waits
end

local function waiting(keys, args)
  local node, epoch = args[1], args[2]
  if is_stale(keys, node, epoch) then return stale() end
  local prefix, found = node .. ' ' .. epoch .. ' ', {}
  for _, field in ipairs(redis.call('HKEYS', keys[4])) do
    if string.sub(field, 1, #prefix) == prefix then
      found[#found + 1] = tonumber(string.sub(field, #prefix + 1))
    end
  end
  return found
end

local function fence(keys, args)
  local node, epoch, victim, of = args[1], args[2], args[3], tonumber(args[4])
  if node ~= victim and is_stale(keys, node, epoch) then return stale() end
  local fenced = tonumber(redis.call('HGET', keys[1], 'f:' .. victim) or '0')
  if of > fenced then redis.call('HSET', keys[1], 'f:' .. victim, of) end
  local at = redis.call('HGET', keys[1], 'n:' .. victim)
  if at and tonumber(at) <= of then
    forget(keys, victim, of)
    drop(keys, victim)
  end
  return 1
end

local function post(keys, args)
  local node, epoch = args[1], args[2]
  if is_stale(keys, node, epoch) then return stale() end
  return tell(keys, node, args[3])
end

local function events(keys, args)
  local node, epoch, after = args[1], args[2], tonumber(args[3])
  if is_stale(keys, node, epoch) then return stale() end
  local last = tonumber(redis.call('HGET', keys[1], 'event') or '0')
  local found = {}
  for number = after + 1, last do
    local event = redis.call('HGET', keys[5], number)
    if event then
      found[#found + 1] = number
      found[#found + 1] = event
    end
  end
  return found
end

local function acknowledge(keys, args)
  local node, epoch, number = args[1], args[2], args[3]
  if is_stale(keys, node, epoch) then return stale() end
  acknowledged(keys, node, number)
  return 1
end

local function attached(keys)
  local all, epochs, found = redis.call('HGETALL', keys[1]), {}, {}
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'n:' then epochs[string.sub(all[i], 3)] = tonumber(all[i + 1]) end
  end
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'a:' then
      local node = string.sub(all[i], 3)
      found[#found + 1] = {node, epochs[node] or 0, tonumber(all[i + 1])}
    end
  end
  return found
end

local function replace(keys, args)
  local node, epoch, version, document = args[1], args[2], args[3], args[4]
  if is_stale(keys, node, epoch) then return stale() end
  if (redis.call('HGET', keys[6], 'version') or '0') ~= version then return 0 end
  redis.call('HSET', keys[6], 'version', tonumber(version) + 1, 'document', document)
  return 1
end

-- Members: members is a hash by NODE of "EPOCH REAPER INFO" (REAPER '-': nobody), epochs one of the highest
-- epoch of each node, fences one of the highest epoch that is over, numbers one of the number of each node.
-- due is a sorted set of the members by when they may be claimed: the end of the lease, or of the claim.
-- changes is one of all nodes that there ever were by the number of their last change: that a node joined,
-- was claimed or went.

local function parse(text)
  local epoch, reaper, info = string.match(text, '^(%d+) (%S+) (.*)$')
  return {epoch = tonumber(epoch), reaper = reaper, info = info}
end

local function last_change(changes)
  return tonumber(redis.call('ZREVRANGE', changes, 0, 0, 'WITHSCORES')[2] or '0')
end

local function changed(changes, node) redis.call('ZADD', changes, last_change(changes) + 1, node) end

local function keep(keys, node, m)
  redis.call('HSET', keys[1], node, string.format('%d %s %s', m.epoch, m.reaper, m.info))
  changed(keys[6], node)
end

local function remove(keys, node)
  redis.call('HDEL', keys[1], node)
  redis.call('ZREM', keys[5], node)
  changed(keys[6], node)
end

local function join(keys, args)
  local epochs, fences, numbers, due = keys[2], keys[3], keys[4], keys[5]
  local node, floor, lease, info = args[1], tonumber(args[2]), tonumber(args[3]), args[4]
  local known = tonumber(redis.call('HGET', epochs, node) or '0')
  local fenced = tonumber(redis.call('HGET', fences, node) or '0')
  local epoch = math.max(floor, known, fenced) + 1
  redis.call('HSET', epochs, node, epoch)
  keep(keys, node, {epoch = epoch, reaper = '-', info = info})
  redis.call('ZADD', due, now_ms() + lease, node)
  local number = redis.call('HGET', numbers, node)
  if not number then
    number = redis.call('HLEN', numbers) + 1
    redis.call('HSET', numbers, node, number)
  end
  return {epoch, tonumber(number)}
end

local function member_of(members, node, epoch)
  local text = redis.call('HGET', members, node)
  if not text then return nil end
  local m = parse(text)
  if m.epoch ~= tonumber(epoch) then return nil end
  return m
end

local function describe(keys, node, text, now)
  local m, left = parse(text), 0
  if m.reaper == '-' then left = tonumber(redis.call('ZSCORE', keys[5], node)) - now end
  return {node, m.epoch, tonumber(redis.call('HGET', keys[4], node)), left, m.reaper, m.info}
end

local function all_members(keys, now)
  local all, found = redis.call('HGETALL', keys[1]), {}
  for i = 1, #all, 2 do found[#found + 1] = describe(keys, all[i], all[i + 1], now) end
  return found
end

local function renew(keys, args)
  local members, due, changes = keys[1], keys[5], keys[6]
  local node, known = args[1], tonumber(args[4])
  local m = member_of(members, node, args[2])
  if not m or m.reaper ~= '-' then return stale() end
  local now = now_ms()
  redis.call('ZADD', due, now + tonumber(args[3]), node)
  local over = redis.call('ZRANGEBYSCORE', due, '-inf', now)
  local last = last_change(changes)
  if known == 0 or known > last then return {last, 1, all_members(keys, now), {}, over} end
  local found, gone = {}, {}
  if known < last then
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', changes, '(' .. known, '+inf')) do
      local text = redis.call('HGET', members, other)
      if text then found[#found + 1] = describe(keys, other, text, now) else gone[#gone + 1] = other end
    end
  end
  return {last, 0, found, gone, over}
end

local function members(keys) return all_members(keys, now_ms()) end

local function leave(keys, args)
  if member_of(keys[1], args[1], args[2]) then remove(keys, args[1]) end
  return 1
end

local function claim(keys, args)
  local fences, due = keys[3], keys[5]
  local node, victim, of, lasting = args[1], args[3], tonumber(args[4]), tonumber(args[5])
  local me = member_of(keys[1], node, args[2])
  if not me or me.reaper ~= '-' then return stale() end
  local m, now = member_of(keys[1], victim, of), now_ms()
  if not m then return 0 end
  if m.reaper ~= node and tonumber(redis.call('ZSCORE', due, victim)) > now then return 0 end
  m.reaper = node
  keep(keys, victim, m)
  redis.call('ZADD', due, now + lasting, victim)
  redis.call('HSET', fences, victim, math.max(of, tonumber(redis.call('HGET', fences, victim) or '0')))
  return 1
end

local function reaped(keys, args)
  local m = member_of(keys[1], args[3], args[4])
  if m and m.reaper == args[1] then remove(keys, args[3]) end
  return 1
end

-- Of each node that there ever was, the highest epoch that is over.
local function over(keys)
  local all, found = redis.call('HGETALL', keys[2]), {}
  for i = 1, #all, 2 do
    local node, epoch = all[i], tonumber(all[i + 1])
    local m = member_of(keys[1], node, epoch)
    if m and m.reaper == '-' then epoch = epoch - 1 end
    found[#found + 1] = {node, epoch}
  end
  return found
end

redis.register_function('lunmesh_1_attach', attach)
redis.register_function('lunmesh_1_alone', alone)
redis.register_function('lunmesh_1_detach', detach)
redis.register_function('lunmesh_1_submit', submit)
redis.register_function('lunmesh_1_waiting', waiting)
redis.register_function('lunmesh_1_fence', fence)
redis.register_function('lunmesh_1_post', post)
redis.register_function('lunmesh_1_events', events)
redis.register_function('lunmesh_1_acknowledge', acknowledge)
redis.register_function('lunmesh_1_attached', attached)
redis.register_function('lunmesh_1_replace', replace)
redis.register_function('lunmesh_1_join', join)
redis.register_function('lunmesh_1_renew', renew)
redis.register_function('lunmesh_1_members', members)
redis.register_function('lunmesh_1_leave', leave)
redis.register_function('lunmesh_1_claim', claim)
redis.register_function('lunmesh_1_reaped', reaped)
redis.register_function('lunmesh_1_over', over)
