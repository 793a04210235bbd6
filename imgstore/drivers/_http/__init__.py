"""HTTP as image stores need it: what HTTP and VMware share."""
