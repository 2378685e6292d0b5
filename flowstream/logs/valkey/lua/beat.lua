-- with: life topic lease
-- ARGV: 6 owner, 7 for how many microseconds, 8 on: each topic and its fencing token
local leases = {}
for at = 8, #ARGV, 2 do
  local topic = find(ARGV[at])
  if topic and topic.owner == ARGV[6] and topic.fence == ARGV[at + 1] and not topic.ended then
    renew(topic, tonumber(ARGV[7]))
  end
  leases[#leases + 1] = lease_of(topic)
end
return leases
