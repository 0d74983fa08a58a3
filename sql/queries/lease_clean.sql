-- Forget what no budget needs any more, and add the last hours to the curve of the traffic.
SELECT lease_clean(), traffic_refresh()
