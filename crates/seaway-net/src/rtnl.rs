//! Links, addresses, routes and neighbours (rtnetlink).
