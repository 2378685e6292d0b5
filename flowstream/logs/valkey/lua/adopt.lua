-- with: life
-- ARGV: 6 '1': begin a life in any case. Returns the log's epoch.
if ARGV[6] == '1' then begin_life() end
return log_epoch
