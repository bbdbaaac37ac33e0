#!lua name=lunmesh_VERSION
-- What target/cluster/registry.py promises, in Redis: one function for each of its calls.
-- docs/cluster.md has the keys.  A unit's keys carry its UUID as hash tag, those of the members {lunmesh}.
-- VERSION is a digest of this file (redis_registry.py): libraries of several versions stand side by side.
--
--   meta     hash: event, trim; alone: a node whose commands are not all here; and for each node n:NODE epoch, a:NODE acknowledged event, w:NODE count of
--            exclusive entries, s:NODE its last call, l:NODE the library that it calls, f:NODE the highest epoch that is fenced
--   writes   hash: exclusive entries, by "NODE EPOCH SEQUENCE": "START END INFO"
--   reads    hash: the others
--   blocked  hash: by entry, those that it waits for, each with a ';' behind it
--   events   hash: by number "NODE PAYLOAD"
--   document hash: version, document
--
-- A Redis may come back with older data than it had (registry.py, rule 5).  What follows is in no database and goes with
-- the process on purpose: who has called since this process has these data, so that each has seen that nothing of its
-- own is missing.  By meta key.
local heard = {}     -- by node, its last call
local complete = {}  -- true: all that serve the unit have been heard
local counts = {}    -- how many have acknowledged an event, by number; nodes: how many do.  For trim alone
local LIBRARY = 'lunmesh_VERSION'

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function stale()
  return redis.error_reply('STALENODE this epoch of this node is over')
end

-- A call that its node has given up, and that has come behind later ones (registry.py, rule 6).
local function late()
  return redis.error_reply('LATECALL later calls of this node have been executed')
end

local function tag_of(key) return string.match(key, '{(.-)}') end

local function forget_process(meta) heard[meta], complete[meta], counts[meta] = nil, nil, nil end

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

-- What exclusive entries wait for while a node has not been heard: no entry has that number.
local function presence(node, epoch) return node .. ' ' .. epoch .. ' 0' end

local function hear(keys, node, epoch, call)
  local unit = heard[keys[1]]
  if not unit then
    unit = {}
    heard[keys[1]] = unit
  end
  local first = not unit[node]
  unit[node] = call
  if first then wake(keys, {[presence(node, epoch)] = true}) end
end

-- Those that serve the unit and have not been heard; each is told that it is waited for, since it may have nothing to ask.
-- Who calls another library is heard there.
local function unheard(keys)
  local meta, found = keys[1], {}
  if complete[meta] then return found end
  local all, epochs, libraries = redis.call('HGETALL', meta), {}, {}
  for i = 1, #all, 2 do
    local kind, node = string.sub(all[i], 1, 2), string.sub(all[i], 3)
    if kind == 'n:' then epochs[node] = all[i + 1] elseif kind == 'l:' then libraries[node] = all[i + 1] end
  end
  local unit = heard[meta] or {}
  for node, epoch in pairs(epochs) do
    if libraries[node] == LIBRARY and not unit[node] then
      found[#found + 1] = presence(node, epoch)
      redis.call('PUBLISH', 'lunmesh:node:' .. node, 'u ' .. tag_of(meta))
    end
  end
  if #found == 0 then complete[meta] = true end
  return found
end

-- Why a call may not be executed, nil: it may.  That life of the node serves the unit, all that it knows is here, and no later call of it has
-- been executed.  args: node, epoch, the number of this call, of the last one that was answered, of the last event that it has heard.
local function refusal(keys, args)
  local meta, node = keys[1], args[1]
  local at = redis.call('HMGET', meta, 'n:' .. node, 's:' .. node, 'event')
  if at[1] ~= args[2] then return stale() end
  local call, last = tonumber(args[3]), tonumber(at[2] or '0')
  local unit = heard[meta]
  if unit and unit[node] and unit[node] > last then forget_process(meta) end  -- it has got older data since
  if last < tonumber(args[4]) or tonumber(at[3] or '0') < tonumber(args[5]) then return stale() end
  if call < last then return late() end
  if call > last then redis.call('HSET', meta, 's:' .. node, call) end
  hear(keys, node, args[2], call)
  return nil
end

-- ``body``, for calls that may be executed.
local function admitted(body)
  return function(keys, args) return refusal(keys, args) or body(keys, args) end
end

-- Whether a later call of the node has been executed, for the calls that begin and end its serving the unit.
local function overtaken(keys, args)
  return tonumber(args[3]) < tonumber(redis.call('HGET', keys[1], 's:' .. args[1]) or '0')
end

-- Forget the entries of a node up to an epoch.
local function forget(keys, node, epoch)
  local gone, some = {}, false
  local at = redis.call('HGET', keys[1], 'n:' .. node)
  if at and tonumber(at) <= epoch then
    gone[presence(node, at)] = true
    some = true
  end
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
  local least, last, done, nodes = nil, 0, 0, 0
  for i = 1, #all, 2 do
    local field, value = all[i], all[i + 1]
    if string.sub(field, 1, 2) == 'a:' then
      local number = tonumber(value)
      if least == nil or number < least then least = number end
      nodes = nodes + 1
    elseif field == 'event' then last = tonumber(value)
    elseif field == 'trim' then done = tonumber(value) end
  end
  least = least or last
  for number = done + 1, least do redis.call('HDEL', keys[5], number) end
  if least > done then redis.call('HSET', meta, 'trim', least) end
  local kept = {nodes = nodes}
  for number, count in pairs(counts[meta] or {}) do
    if number ~= 'nodes' and number > least then kept[number] = count end
  end
  counts[meta] = kept
end

local function drop(keys, node, epoch)
  redis.call('HDEL', keys[1], 'n:' .. node, 'a:' .. node, 'w:' .. node, 's:' .. node, 'l:' .. node)
  if redis.call('HGET', keys[1], 'alone') == node then redis.call('HDEL', keys[1], 'alone') end
  if heard[keys[1]] then heard[keys[1]][node] = nil end
  trim(keys)
  notify(keys, 'd ' .. node .. ' ' .. epoch)  -- older versions have no epoch there, and look for themselves
end

-- Whoever has told an event waits for it, and nobody else: with n nodes there are n of these for each event.
local function acknowledged(keys, node, number)
  local meta = keys[1]
  redis.call('HSET', meta, 'a:' .. node, number)
  local who = string.match(redis.call('HGET', keys[5], number) or '', '^(%S+) ')
  if who and redis.call('HEXISTS', meta, 'l:' .. who) == 1 then
    redis.call('PUBLISH', 'lunmesh:node:' .. who, 'a ' .. tag_of(meta) .. ' ' .. node .. ' ' .. number)
  else
    notify(keys, 'a ' .. node .. ' ' .. number)  -- of an older version
  end
  local count = counts[meta] or {}
  counts[meta] = count
  count[number] = (count[number] or 0) + 1
  if not count.nodes or count[number] >= count.nodes then trim(keys) end
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
  if at and overtaken(keys, args) then return late() end
  local lone = redis.call('HGET', keys[1], 'alone') or ''
  if lone == node then lone = '' end
  if lone ~= '' then event = tell(keys, node, args[6]) end
  local call = tonumber(args[3])
  redis.call('HSET', keys[1], 's:' .. node, call, 'l:' .. node, LIBRARY)
  hear(keys, node, epoch, call)
  if not at then
    redis.call('HSET', keys[1], 'n:' .. node, epoch, 'a:' .. node, event, 'w:' .. node, 0)
    counts[keys[1]] = nil
  else  -- the answer to the first call was lost
    redis.call('HSET', keys[1], 'a:' .. node, event)
    trim(keys)
    notify(keys, 'a ' .. node .. ' ' .. event)
  end
  return {event, 0, lone}
end

local function alone(keys, args)
  local meta, node = keys[1], args[1]
  local nodes = 0
  if args[6] == '1' then
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
  if redis.call('HGET', keys[1], 'n:' .. node) ~= epoch then return 0 end
  if overtaken(keys, args) then return late() end
  forget(keys, node, tonumber(epoch))
  drop(keys, node, epoch)
  return 1
end

local function submit(keys, args)
  local node, epoch = args[1], args[2]
  local meta, writes, reads, blocked = keys[1], keys[2], keys[3], keys[4]
  local prefix = node .. ' ' .. epoch .. ' '
  local at = 7
  local settled = tonumber(args[6])
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
  local absent
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
      absent = absent or unheard(keys)
      if #others + #absent > 0 and redis.call('HEXISTS', writes, field) == 0 then
        local start, stop, before = tonumber(first), tonumber(last), {unpack(absent)}
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
  local prefix, found = node .. ' ' .. epoch .. ' ', {}
  for _, field in ipairs(redis.call('HKEYS', keys[4])) do
    if string.sub(field, 1, #prefix) == prefix then
      found[#found + 1] = tonumber(string.sub(field, #prefix + 1))
    end
  end
  return found
end

local function fence(keys, args)
  local node, victim, of = args[1], args[6], tonumber(args[7])
  local refused = node ~= victim and refusal(keys, args)
  if refused then return refused end
  local fenced = tonumber(redis.call('HGET', keys[1], 'f:' .. victim) or '0')
  if of > fenced then redis.call('HSET', keys[1], 'f:' .. victim, of) end
  local at = redis.call('HGET', keys[1], 'n:' .. victim)
  if at and tonumber(at) <= of then
    forget(keys, victim, of)
    drop(keys, victim, at)
  end
  return 1
end

local function writes_of(keys, args)
  local prefix, found = args[1] .. ' ' .. args[2] .. ' ', {}
  local all = redis.call('HGETALL', keys[2])
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, #prefix) == prefix then
      local first, last = string.match(all[i + 1], '^(%d+) (%d+) ')
      found[#found + 1] = {tonumber(string.sub(all[i], #prefix + 1)), tonumber(first), tonumber(last)}
    end
  end
  return found
end

local function settle(keys, args)
  local victim, gone, count = args[6], {}, 0
  for i = 8, #args do
    local field = victim .. ' ' .. args[7] .. ' ' .. args[i]
    count = count + redis.call('HDEL', keys[2], field)
    redis.call('HDEL', keys[4], field)
    gone[field] = true
  end
  if count > 0 then
    if redis.call('HEXISTS', keys[1], 'w:' .. victim) == 1 then
      redis.call('HINCRBY', keys[1], 'w:' .. victim, -count)
    end
    wake(keys, gone)
  end
  return 1
end

local function post(keys, args)
  if #unheard(keys) > 0 then return 0 end  -- its number might be one that a node has heard of another event
  return tell(keys, args[1], args[6])
end

local function events(keys, args)
  local after = tonumber(args[6])
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
  acknowledged(keys, args[1], tonumber(args[6]))
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
  local version, document, becomes = args[6], args[7], args[8]
  if (redis.call('HGET', keys[6], 'version') or '0') ~= version then return 0 end
  redis.call('HSET', keys[6], 'version', becomes, 'document', document)
  return 1
end

local function sizes(keys)
  local found = {}
  for i = 2, 5 do found[i - 1] = redis.call('HLEN', keys[i]) end
  return found
end

-- The volume is no more.  By HDEL: users need no right to DEL.
local function drop_unit(keys)
  for _, key in ipairs(keys) do
    local fields = redis.call('HKEYS', key)
    for i = 1, #fields, 1000 do
      redis.call('HDEL', key, unpack(fields, i, math.min(i + 999, #fields)))
    end
  end
  forget_process(keys[1])
  return 1
end

-- Members: members is a hash by NODE of "EPOCH REAPER INFO" (REAPER '-': nobody), epochs one of the highest
-- epoch of each node, fences one of the highest epoch that is over, numbers one of the number of each node.
-- due is a sorted set of the members by when they may be claimed: the end of the lease, or of the claim.
-- changes is one of all nodes that there ever were by the number of their last change: that a node joined,
-- was claimed or went.  beats is a hash by NODE of the number of its last renewal.  formats is one of the format of all
-- that is here ('format', none: 0) and, by n:NODE, of "EPOCH FORMAT": the newest that this life of the node knows.

local NUMBER_MAX = 65535  -- RELATIVE TARGET PORT IDENTIFIER
local beaten = {}         -- as heard above: by node, its last renewal
local began = false       -- somebody has renewed since this process has these data
local renewed_at = nil    -- when somebody did last, by the clock
local spared = {}         -- by node, the last renewal before its lease was made whole again: once for each, or the dead would live on with the slow

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
  redis.call('HDEL', keys[7], node)
  redis.call('HDEL', keys[8], 'n:' .. node)
  beaten[node] = nil
  changed(keys[6], node)
end

-- What is wrong with the format of what is here, for a version that knows those from oldest to newest; nil: nothing.
local function wrong_format(keys, oldest, newest)
  local format, known = tonumber(redis.call('HGET', keys[8], 'format') or '0'), nil
  if format > tonumber(newest) then known = newest .. ' at most: update lunmesh here'
  elseif format < tonumber(oldest) and redis.call('HLEN', keys[2]) > 0 then
    known = oldest .. ' at least: run all nodes with a version between the two first'
  end
  return known and redis.error_reply('WRONGFORMAT Redis has format ' .. format .. ', this version knows ' .. known)
end

-- It rises when all members know a newer one: a version that does not cannot join any more.
local function raise_format(keys, newest)
  local all, format = redis.call('HGETALL', keys[1]), tonumber(newest)
  for i = 1, #all, 2 do
    local epoch, known = string.match(redis.call('HGET', keys[8], 'n:' .. all[i]) or '', '^(%d+) (%d+)$')
    if tonumber(epoch) ~= parse(all[i + 1]).epoch then known = 0 end  -- of a version that knew of no formats
    format = math.min(format, tonumber(known))
  end
  local before = tonumber(redis.call('HGET', keys[8], 'format') or '0')
  if format > before then redis.call('HSET', keys[8], 'format', format) end
  return math.max(format, before)
end

-- args: node, the epoch that its next one is above, lease, info, the number that it had, the formats that it knows: oldest, newest.
local function join(keys, args)
  local wrong = wrong_format(keys, args[6], args[7])
  if wrong then return wrong end
  local epochs, fences, numbers, due = keys[2], keys[3], keys[4], keys[5]
  local node, floor, lease, info = args[1], tonumber(args[2]), tonumber(args[3]), args[4]
  local known = tonumber(redis.call('HGET', epochs, node) or '0')
  local fenced = tonumber(redis.call('HGET', fences, node) or '0')
  local epoch = math.max(floor, known, fenced) + 1
  local number = redis.call('HGET', numbers, node)
  if not number then
    local taken, last = {}, 0
    for _, other in ipairs(redis.call('HVALS', numbers)) do
      taken[other] = true
      last = math.max(last, tonumber(other))
    end
    number = args[5]
    if number == '0' or taken[number] then number = last + 1 end
    if tonumber(number) > NUMBER_MAX then
      return redis.error_reply('TOOMANYNODES there have been ' .. NUMBER_MAX .. ' node ids, and each keeps its target port')
    end
    redis.call('HSET', numbers, node, number)
  end
  if redis.call('HLEN', keys[1]) == 0 then began = true end  -- nobody has a lease
  redis.call('HSET', epochs, node, epoch)
  redis.call('HDEL', keys[7], node)
  beaten[node], spared[node] = nil, nil
  keep(keys, node, {epoch = epoch, reaper = '-', info = info})
  redis.call('ZADD', due, now_ms() + lease, node)
  redis.call('HSET', keys[8], 'n:' .. node, string.format('%d %s', epoch, args[7]))
  return {epoch, tonumber(number), raise_format(keys, args[7])}
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

-- Whether that life of the node goes on, and all that it knows is here.
-- args: node, epoch, the last change that it knows, the number of its last renewal that was answered.
local function goes_on(keys, args)
  local node = args[1]
  local m = member_of(keys[1], node, args[2])
  if not m or m.reaper ~= '-' then return false end
  local beat = tonumber(redis.call('HGET', keys[7], node) or '0')
  if beaten[node] and beaten[node] > beat then beaten, began = {}, false end  -- it has got older data since
  return beat >= tonumber(args[4]) and last_change(keys[6]) >= tonumber(args[3])
end

local function greet(keys, args)
  if goes_on(keys, args) then return 1 end
  return stale()
end

-- In older data leases seem to end earlier than their nodes have been told, and so they do when the clock was put forward: each has all of one
-- from now on.
local function begin(keys, now, lease)
  if not began then spared = {} end
  began = true
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', keys[5], '-inf', now + lease)) do
    local text, beat = redis.call('HGET', keys[1], node), redis.call('HGET', keys[7], node) or '0'
    if text and parse(text).reaper == '-' and spared[node] ~= beat then
      spared[node] = beat
      redis.call('ZADD', keys[5], now + lease, node)
    end
  end
end

local function renew(keys, args)
  local members, due, changes, beats = keys[1], keys[5], keys[6], keys[7]
  local node, known, beat, lease = args[1], tonumber(args[3]), tonumber(args[5]), tonumber(args[6])
  if not goes_on(keys, args) then return stale() end
  if beat > tonumber(redis.call('HGET', beats, node) or '0') then redis.call('HSET', beats, node, beat) end
  beaten[node] = beat
  local now = now_ms()
  if not began or (renewed_at and now > renewed_at + lease / 2) then begin(keys, now, lease) end
  renewed_at, spared[node] = now, nil
  redis.call('ZADD', due, now + lease, node)
  local over = redis.call('ZRANGEBYSCORE', due, '-inf', now)
  local last = last_change(changes)
  if known == 0 then return {last, 1, all_members(keys, now), {}, over} end
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
  if not m or not began then return 0 end  -- whose lease is over is not known yet
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

-- Of each node that there ever was, the highest epoch that is over.  args: the formats that the caller knows.
local function over(keys, args)
  local wrong = wrong_format(keys, args[1], args[2])
  if wrong then return wrong end
  local all, found = redis.call('HGETALL', keys[2]), {}
  for i = 1, #all, 2 do
    local node, epoch = all[i], tonumber(all[i + 1])
    local m = member_of(keys[1], node, epoch)
    if m and m.reaper == '-' then epoch = epoch - 1 end
    found[#found + 1] = {node, epoch}
  end
  return found
end

redis.register_function(LIBRARY .. '_attach', attach)
redis.register_function(LIBRARY .. '_alone', admitted(alone))
redis.register_function(LIBRARY .. '_detach', detach)
redis.register_function(LIBRARY .. '_submit', admitted(submit))
redis.register_function(LIBRARY .. '_waiting', admitted(waiting))
redis.register_function(LIBRARY .. '_fence', fence)
redis.register_function(LIBRARY .. '_post', admitted(post))
redis.register_function(LIBRARY .. '_writes_of', writes_of)
redis.register_function(LIBRARY .. '_settle', admitted(settle))
redis.register_function(LIBRARY .. '_events', admitted(events))
redis.register_function(LIBRARY .. '_acknowledge', admitted(acknowledge))
redis.register_function(LIBRARY .. '_attached', attached)
redis.register_function(LIBRARY .. '_replace', admitted(replace))
redis.register_function(LIBRARY .. '_drop_unit', drop_unit)
redis.register_function(LIBRARY .. '_sizes', sizes)
redis.register_function(LIBRARY .. '_join', join)
redis.register_function(LIBRARY .. '_greet', greet)
redis.register_function(LIBRARY .. '_renew', renew)
redis.register_function(LIBRARY .. '_members', members)
redis.register_function(LIBRARY .. '_leave', leave)
redis.register_function(LIBRARY .. '_claim', claim)
redis.register_function(LIBRARY .. '_reaped', reaped)
redis.register_function(LIBRARY .. '_over', over)
