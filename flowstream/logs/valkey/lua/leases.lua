-- with: life topic lease
-- ARGV: 6 on: topics
local leases = {}
for at = 6, #ARGV do leases[#leases + 1] = lease_of(find(ARGV[at])) end
return leases
