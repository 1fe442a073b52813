//! nf_tables: intermediate form, netlink encoding, reading back, text, fake.
