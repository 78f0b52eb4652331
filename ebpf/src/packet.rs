//! The packet: typed access to `__sk_buff`, its data, and the ways out of a program.

use core::mem::{MaybeUninit, size_of};
use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_jiffies64, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes, bpf_skb_vlan_pop,
};
use felid_common::{
    CB_ID, CB_INDEX, CB_OFFLOAD, CB_REASON, CB_TARGET, DropReason, Endpoint, Event, HOST_INPUT_TAG, JUDGED_TAG,
    Scratch, Settings,
};

use crate::maps;

/// Go on with the host's stack (`TCX_NEXT`).
pub(crate) const NEXT: i32 = -1;
/// DropReason (`TCX_DROP`).
pub(crate) const DROP: i32 = 2;

/// Length of the Ethernet header, and so where the IP header begins.
pub(crate) const L3: usize = 14;

/// Ethertypes, as they lie in the packet.
pub(crate) const ETH_IPV4: u16 = 0x0800_u16.to_be();
pub(crate) const ETH_IPV6: u16 = 0x86dd_u16.to_be();
pub(crate) const ETH_ARP: u16 = 0x0806_u16.to_be();

/// The packet that a program runs for.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    skb: *mut __sk_buff,
}

impl EbpfContext for Packet {
    fn as_ptr(&self) -> *mut c_void {
        self.skb.cast()
    }
}

/// Reads a field of the context; each read is one instruction of the field's own size.
macro_rules! field {
    ($packet:expr, $($field:tt)+) => {
        // SAFETY: the kernel hands a valid context to the program; fields are read at their own
        // size.
        unsafe { addr_of!((*$packet.skb).$($field)+).read_volatile() }
    };
}

impl Packet {
    #[inline(always)]
    pub(crate) const fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    pub(crate) const fn skb(self) -> *mut __sk_buff {
        self.skb
    }

    /// Length from the Ethernet header on, in bytes.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        field!(self, len)
    }

    /// Start of the linear data.
    #[inline(always)]
    pub(crate) fn data(self) -> usize {
        field!(self, data) as usize
    }

    /// End of the linear data.
    #[inline(always)]
    pub(crate) fn data_end(self) -> usize {
        field!(self, data_end) as usize
    }

    /// Whether the packet carried a VLAN tag: the kernel has taken it out of the data.
    #[inline(always)]
    pub(crate) fn vlan(self) -> bool {
        field!(self, vlan_present) != 0
    }

    /// Whether the host's stack hands itself a copy of a multicast or broadcast packet that it
    /// sends out of this interface. Nobody else can make such a packet: where one arrives from
    /// elsewhere the kernel sets its type anew. It has no Ethernet header.
    #[inline(always)]
    pub(crate) fn is_looped_back(self) -> bool {
        const PACKET_LOOPBACK: u32 = 5;
        field!(self, pkt_type) == PACKET_LOOPBACK
    }

    /// Takes a tag of VLAN 0 off, which gives a priority and no network (IEEE 802.1p), as the
    /// host's stack would; false if the packet has another tag.
    ///
    /// # Minimum kernel version
    ///
    /// `bpf_skb_vlan_pop` 4.3.
    #[inline(always)]
    pub(crate) fn untag(self) -> bool {
        const ID: u32 = 0x0fff;
        // SAFETY: plain helper call.
        !self.vlan() || (field!(self, vlan_tci) & ID == 0 && unsafe { bpf_skb_vlan_pop(self.skb) } == 0 && !self.vlan())
    }

    /// Says for netfilter's hooks that this packet was judged, and whether the workload sends it on
    /// its own account and not in answer: [`HOST_INPUT_TAG`], [`JUDGED_TAG`].
    #[inline(always)]
    pub(crate) fn tag_for_host(self, on_its_own: bool) {
        let tag = if on_its_own { HOST_INPUT_TAG } else { JUDGED_TAG };
        // SAFETY: `tc_index` is writable in this program type.
        unsafe { addr_of_mut!((*self.skb).tc_index).write_volatile(tag.into()) }
    }

    /// What the packet leaves to others to do, as the endpoint's stub says: `OFFLOAD_*`.
    #[inline(always)]
    pub(crate) fn offload(self) -> u32 {
        self.cb(CB_OFFLOAD)
    }

    /// Whether the packet stands for several (segmentation offload).
    #[inline(always)]
    pub(crate) fn segmented(self) -> bool {
        field!(self, gso_size) != 0
    }

    /// The interface that the packet came in by; 0 = the host generated it.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(self) -> u32 {
        field!(self, ingress_ifindex)
    }

    /// Whether a socket of the host sent the packet.
    #[inline(always)]
    pub(crate) fn has_socket(self) -> bool {
        !field!(self, __bindgen_anon_2.sk).is_null()
    }

    #[inline(always)]
    fn cb(self, word: usize) -> u32 {
        field!(self, cb[word])
    }

    #[inline(always)]
    fn set_cb(self, word: usize, value: u32) {
        // SAFETY: `cb` is writable in this program type.
        unsafe { addr_of_mut!((*self.skb).cb[word]).write_volatile(value) }
    }

    /// Index of this interface's endpoint, as its stub says.
    #[inline(always)]
    pub(crate) fn own_index(self) -> u32 {
        self.cb(CB_INDEX)
    }

    /// Id of this interface's endpoint, as its stub says.
    #[inline(always)]
    pub(crate) fn own_id(self) -> u32 {
        self.cb(CB_ID)
    }

    /// This interface's endpoint; `None` if the stub belongs to one that is gone.
    #[inline(always)]
    pub(crate) fn own(self) -> Option<&'static Endpoint> {
        let id = self.own_id();
        maps::ENDPOINTS
            .get(self.own_index())
            .filter(|endpoint| endpoint.id == id && id != 0)
    }

    /// Notes where a redirect goes: a test run shows only that there was one.
    #[inline(always)]
    pub(crate) fn set_target(self, ifindex: u32) {
        self.set_cb(CB_TARGET, ifindex);
    }

    /// Copies bytes at an offset, wherever in the packet they lie.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper fills all of `value` or fails; `T` is plain data (see the callers:
        // words and arrays of words).
        unsafe {
            if bpf_skb_load_bytes(
                self.skb.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            ) == 0
            {
                Some(value.assume_init())
            } else {
                None
            }
        }
    }

    /// Source MAC address.
    #[inline(always)]
    pub(crate) fn source_mac(self) -> Option<[u16; 3]> {
        self.load(6)
    }

    /// Writes bytes at an offset. Pointers into the packet are void afterwards.
    #[inline(always)]
    pub(crate) fn store<T: Copy>(self, offset: u32, value: &T) -> bool {
        // SAFETY: the helper reads `value` only.
        unsafe {
            bpf_skb_store_bytes(
                self.skb,
                offset,
                core::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
                0,
            ) == 0
        }
    }

    /// Makes the first `length` bytes linear and writable. Pointers into the packet are void
    /// afterwards.
    #[inline(always)]
    pub(crate) fn pull(self, length: u32) -> bool {
        // SAFETY: plain helper call.
        unsafe { bpf_skb_pull_data(self.skb, length) == 0 }
    }

    /// Drops the packet and counts why.
    #[inline(always)]
    pub(crate) fn drop(self, reason: DropReason) -> i32 {
        self.set_cb(CB_REASON, reason as u32);
        if let Some(counter) = maps::DROPS.get_ptr_mut(reason as u32) {
            // SAFETY: this CPU's own slot.
            unsafe { *counter += 1 }
        }
        DROP
    }

    /// Goes on with one of this crate's programs. Returns only if that fails.
    #[inline(always)]
    pub(crate) fn continue_in(self, program: u32) -> i32 {
        // SAFETY: nothing here needs to be dropped.
        unsafe { maps::STATIC_PROGRAMS.tail_call(&self, program) }
        self.drop(DropReason::Internal)
    }

    /// Goes on with a policy program. Returns only if there is none.
    #[inline(always)]
    pub(crate) fn evaluate_policy(self, policy: u32) -> i32 {
        // SAFETY: nothing here needs to be dropped.
        unsafe { maps::POLICY.tail_call(&self, policy) }
        self.drop(DropReason::NoPolicy)
    }
}

/// Counts an event.
#[inline(always)]
pub(crate) fn count(event: Event) {
    if let Some(counter) = maps::EVENT.get_ptr_mut(event as u32) {
        // SAFETY: this CPU's own slot.
        unsafe { *counter += 1 }
    }
}

/// Low 32 bits of jiffies.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: plain helper call.
    unsafe { bpf_jiffies64() as u32 }
}

/// The settings.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    maps::SETTINGS.get(0)
}

/// This CPU's scratch. Programs are not preempted by others on the same CPU (softirq context, or
/// bottom halves disabled).
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: one program at a time per CPU, and each takes the reference once.
    maps::SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}
