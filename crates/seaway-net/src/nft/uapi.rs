//! Numbers of the wire format, by their names in linux/netfilter/nf_tables.h, nfnetlink.h and nf_nat.h.

/// NFNL_SUBSYS_NFTABLES, the high byte of message types.
pub(crate) const SUBSYSTEM: u16 = 10;
/// NFNLGRP_NFTABLES, the multicast group of changes.
pub(crate) const GROUP_NFTABLES: u32 = 7;
/// NFNLGRP_NFTRACE, the multicast group of traced packets.
pub(crate) const GROUP_TRACE: u32 = 9;

pub(crate) const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
pub(crate) const NFNL_MSG_BATCH_END: u16 = 0x11;

/// enum nf_tables_msg_types
pub(crate) mod message {
    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const GETTABLE: u16 = 1;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    pub(crate) const GETCHAIN: u16 = 4;
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    pub(crate) const GETRULE: u16 = 7;
    pub(crate) const DELRULE: u16 = 8;
    pub(crate) const NEWSET: u16 = 9;
    pub(crate) const GETSET: u16 = 10;
    pub(crate) const DELSET: u16 = 11;
    pub(crate) const NEWSETELEM: u16 = 12;
    pub(crate) const GETSETELEM: u16 = 13;
    pub(crate) const DELSETELEM: u16 = 14;
    pub(crate) const NEWGEN: u16 = 15;
    pub(crate) const GETGEN: u16 = 16;
    pub(crate) const TRACE: u16 = 17;
}

/// enum nft_table_attributes, NFT_TABLE_F_*
pub(crate) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const F_DORMANT: u32 = 1;
    pub(crate) const F_OWNER: u32 = 2;
}

/// enum nft_chain_attributes, nft_hook_attributes
pub(crate) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
}

/// enum nft_rule_attributes
pub(crate) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const USERDATA: u16 = 7;
}

/// enum nft_set_attributes, nft_set_desc_attributes, nft_set_field_attributes
pub(crate) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LEN: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LEN: u16 = 7;
    pub(crate) const DESC: u16 = 9;
    pub(crate) const ID: u16 = 10;
    pub(crate) const TIMEOUT: u16 = 11;
    pub(crate) const USERDATA: u16 = 13;
    /// Newer than many a header file.
    pub(crate) const COUNT: u16 = 20;
    pub(crate) const DESC_SIZE: u16 = 1;
    pub(crate) const DESC_CONCAT: u16 = 2;
    pub(crate) const FIELD_LEN: u16 = 1;
}

/// enum nft_set_flags
pub(crate) mod set_flag {
    pub(crate) const ANONYMOUS: u32 = 0x1;
    pub(crate) const CONSTANT: u32 = 0x2;
    pub(crate) const INTERVAL: u32 = 0x4;
    pub(crate) const MAP: u32 = 0x8;
    pub(crate) const TIMEOUT: u32 = 0x10;
    pub(crate) const EVAL: u32 = 0x20;
    pub(crate) const CONCAT: u32 = 0x80;
}

/// enum nft_set_elem_list_attributes, nft_set_elem_attributes, nft_set_elem_flags
pub(crate) mod element {
    pub(crate) const LIST_TABLE: u16 = 1;
    pub(crate) const LIST_SET: u16 = 2;
    pub(crate) const LIST_ELEMENTS: u16 = 3;
    pub(crate) const LIST_SET_ID: u16 = 4;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const TIMEOUT: u16 = 4;
    pub(crate) const USERDATA: u16 = 6;
    pub(crate) const KEY_END: u16 = 10;
    pub(crate) const F_INTERVAL_END: u32 = 1;
}

/// NFTA_LIST_ELEM
pub(crate) const LIST_ELEM: u16 = 1;

/// enum nft_data_types: a map of verdicts
pub(crate) const DATA_VERDICT: u32 = 0xffff_ff00;

/// enum nft_data_attributes, nft_verdict_attributes
pub(crate) mod data {
    pub(crate) const VALUE: u16 = 1;
    pub(crate) const VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
}

/// NF_DROP, NF_ACCEPT and enum nft_verdicts
pub(crate) mod verdict {
    pub(crate) const DROP: i32 = 0;
    pub(crate) const ACCEPT: i32 = 1;
    pub(crate) const CONTINUE: i32 = -1;
    pub(crate) const JUMP: i32 = -3;
    pub(crate) const GOTO: i32 = -4;
    pub(crate) const RETURN: i32 = -5;
}

/// enum nft_registers: the verdict, and the first of the sixteen registers of 4 bytes
pub(crate) const REG_VERDICT: u32 = 0;
pub(crate) const REG32_00: u32 = 8;

/// enum nft_trace_attributes, nft_trace_types
pub(crate) mod trace {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const RULE_HANDLE: u16 = 3;
    pub(crate) const TYPE: u16 = 4;
    pub(crate) const VERDICT: u16 = 5;
    pub(crate) const ID: u16 = 6;
    pub(crate) const NETWORK_HEADER: u16 = 8;
    pub(crate) const TRANSPORT_HEADER: u16 = 9;
    pub(crate) const IIF: u16 = 10;
    pub(crate) const OIF: u16 = 12;
    pub(crate) const POLICY: u16 = 16;
    pub(crate) const TYPE_POLICY: u32 = 1;
    pub(crate) const TYPE_RETURN: u32 = 2;
}

/// enum nft_gen_attributes
pub(crate) const GEN_ID: u16 = 1;

/// enum nft_expr_attributes
pub(crate) const EXPR_NAME: u16 = 1;
pub(crate) const EXPR_DATA: u16 = 2;

/// enum nft_nat_attributes, nft_nat_types, nft_lookup_attributes, nft_immediate_attributes, nft_target_attributes
pub(crate) mod expression {
    pub(crate) const NAT_TYPE: u16 = 1;
    pub(crate) const NAT_TYPE_DNAT: u32 = 1;
    pub(crate) const LOOKUP_REGISTER: u16 = 3;
    pub(crate) const IMMEDIATE_REGISTER: u16 = 1;
    pub(crate) const IMMEDIATE_DATA: u16 = 2;
    pub(crate) const TARGET_NAME: u16 = 1;
}

/// NF_NAT_RANGE_* (linux/netfilter/nf_nat.h)
pub(crate) mod nat_range {
    pub(crate) const PROTO_RANDOM: u32 = 1 << 2;
    pub(crate) const PERSISTENT: u32 = 1 << 3;
    pub(crate) const PROTO_RANDOM_FULLY: u32 = 1 << 4;
}
