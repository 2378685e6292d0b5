-- with: life
-- ARGV: 6 and 7 where to begin and end, as ZRANGEBYLEX has it, 8 how many
return call('ZRANGEBYLEX', prefix .. 'names', ARGV[6], ARGV[7], 'LIMIT', 0, ARGV[8])
