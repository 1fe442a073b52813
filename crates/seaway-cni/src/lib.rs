//! CNI plugin, IPAM, routes, VXLAN and masquerade drivers
