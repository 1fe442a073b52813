//! How many pods each ReplicaSet of a Deployment should have: pure arithmetic.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The bounds of a rolling update, in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many pods there may be above the wanted number.
    pub max_surge: i32,
    /// How many pods may be missing.
    pub max_unavailable: i32,
}

/// One ReplicaSet's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The pods it is told to have.
    pub wanted: i32,
    /// Its pods that are there, as its status tells.
    pub present: i32,
    /// Its pods that are available.
    pub available: i32,
    /// Whether these numbers are of a time when it had done what it was told last.
    pub settled: bool,
}

impl Size {
    /// The available pods that can be relied on: if it has yet to take some away, it may take these.
    fn sure(self) -> i32 {
        if self.settled { self.available.min(self.wanted) } else { 0 }
    }

    /// The pods that are certainly not available.
    fn broken(self) -> i32 {
        if self.settled { self.wanted - self.sure() } else { 0 }
    }

    /// The pods that it has or will have: those it was told to give up count until they are gone.
    fn most(self) -> i32 {
        self.wanted.max(self.present)
    }
}

/// More pods than any cluster has; sums of such numbers stay far from their type's end.
const MOST_PODS: i32 = 1_000_000;

/// The number itself, where it makes sense.
pub(super) fn within_reach(pods: i32) -> i32 {
    pods.clamp(0, MOST_PODS)
}

/// What an absolute number or percentage of `total` comes to, not below 0.
fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return within_reach(*number),
        Some(IntOrString::String(text)) => text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()),
        None => None,
    };
    // The API's default is 25 % for both.
    let hundredths = i64::from(total.max(0)) * percent.unwrap_or(25).clamp(0, i64::from(MOST_PODS));
    let number = if round_up { (hundredths + 99) / 100 } else { hundredths / 100 };
    within_reach(i32::try_from(number).unwrap_or(MOST_PODS))
}

impl Bounds {
    /// The bounds that a Deployment sets. The surge is rounded up, the unavailable down, and if both come to
    /// nothing, one pod may be unavailable, or the update could not move.
    pub fn of(deployment: &Deployment) -> Self {
        let replicas = wanted(deployment);
        let Some(rolling) = rolling_update(deployment) else {
            return Self { max_surge: 0, max_unavailable: replicas };
        };
        let max_surge = resolve(rolling.max_surge.as_ref(), replicas, true);
        let max_unavailable = resolve(rolling.max_unavailable.as_ref(), replicas, false).min(replicas);
        let stuck = max_surge == 0 && max_unavailable == 0;
        Self { max_surge, max_unavailable: if stuck { 1 } else { max_unavailable } }
    }
}

/// The number of pods that a Deployment asks for.
pub fn wanted(deployment: &Deployment) -> i32 {
    within_reach(deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
}

fn rolling_update(deployment: &Deployment) -> Option<k8s_openapi::api::apps::v1::RollingUpdateDeployment> {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    match strategy {
        Some(strategy) if strategy.type_.as_deref() == Some("Recreate") => None,
        Some(strategy) => Some(strategy.rolling_update.clone().unwrap_or_default()),
        None => Some(Default::default()),
    }
}

/// The size of the new ReplicaSet in the next step of a rolling update. While any set has yet to do what it was
/// told last, nobody knows how many pods there are, and the new one does not grow.
pub fn grow_new(replicas: i32, bounds: Bounds, new: Size, old: &[Size]) -> i32 {
    if new.wanted >= replicas {
        return replicas;
    }
    if !new.settled || old.iter().any(|size| !size.settled) {
        return new.wanted;
    }
    let total = old.iter().map(|size| size.most()).sum::<i32>() + new.most();
    let room = replicas + bounds.max_surge - total;
    new.wanted + room.clamp(0, replicas - new.wanted)
}

/// The sizes of the old ReplicaSets, oldest first, in the next step of a rolling update: their unavailable
/// pods go first, then as many available ones as can be spared.
pub fn shrink_old(replicas: i32, bounds: Bounds, new: Size, old: &[Size]) -> Vec<i32> {
    let min_available = replicas - bounds.max_unavailable;
    let total = old.iter().map(|size| size.wanted).sum::<i32>() + new.wanted;
    // The new pods that are not available yet count as missing: they may never come up.
    let mut spare = (total - min_available - (new.wanted - new.sure()).max(0)).max(0);
    let mut sizes: Vec<i32> = old.iter().map(|size| size.wanted).collect();
    for (size, before) in sizes.iter_mut().zip(old) {
        let gone = before.broken().min(spare);
        *size -= gone;
        spare -= gone;
    }
    let available = old.iter().map(|size| size.sure()).sum::<i32>() + new.sure();
    let mut spare = spare.min((available - min_available).max(0));
    for size in &mut sizes {
        let gone = (*size).min(spare);
        *size -= gone;
        spare -= gone;
    }
    sizes
}

/// The sizes of all active ReplicaSets after the Deployment was resized in the middle of an update: each gets
/// its share, the largest (of equals the first) what rounding leaves.
pub fn resize(allowed: i32, sizes: &[i32], max_before: &[i32]) -> Vec<i32> {
    let total: i32 = sizes.iter().sum();
    let change = allowed - total;
    if change == 0 || total == 0 {
        return sizes.to_vec();
    }
    let mut left = change;
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
    let mut result = sizes.to_vec();
    for &i in &order {
        let before = max_before.get(i).copied().filter(|max| *max > 0).unwrap_or(total);
        let share = f64::from(sizes[i]) * f64::from(allowed) / f64::from(before);
        let part = share.round() as i32 - sizes[i];
        let part = if change > 0 { part.clamp(0, left) } else { part.clamp(left, 0) };
        let part = part.max(-sizes[i]);
        result[i] += part;
        left -= part;
    }
    for &i in &order {
        let part = left.max(-result[i]);
        result[i] += part;
        left -= part;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
    use proptest::prelude::*;

    fn deployment(replicas: i32, surge: IntOrString, unavailable: IntOrString) -> Deployment {
        Deployment {
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(surge),
                        max_unavailable: Some(unavailable),
                    }),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn bounds() {
        let percent = |text: &str| IntOrString::String(text.into());
        let cases = [
            (3, percent("25%"), percent("25%"), (1, 0)),
            (10, percent("25%"), percent("25%"), (3, 2)),
            (4, percent("25%"), percent("25%"), (1, 1)),
            (3, IntOrString::Int(0), percent("10%"), (0, 1)),
            (3, IntOrString::Int(0), IntOrString::Int(0), (0, 1)),
            (3, IntOrString::Int(2), IntOrString::Int(5), (2, 3)),
            (0, percent("25%"), percent("25%"), (0, 1)),
            (1, percent("100%"), IntOrString::Int(0), (1, 0)),
            (i32::MAX, percent("100%"), IntOrString::Int(i32::MAX), (MOST_PODS, MOST_PODS)),
            (9, percent("9223372036854775807%"), IntOrString::Int(-1), (90_000, 0)),
        ];
        for (replicas, surge, unavailable, (max_surge, max_unavailable)) in cases {
            let bounds = Bounds::of(&deployment(replicas, surge.clone(), unavailable.clone()));
            assert_eq!(bounds, Bounds { max_surge, max_unavailable }, "{replicas} {surge:?} {unavailable:?}");
        }
    }

    #[test]
    fn steps() {
        let bounds = Bounds { max_surge: 1, max_unavailable: 0 };
        let size = |wanted, available| Size { wanted, present: wanted, available, settled: true };
        assert_eq!(grow_new(3, bounds, size(0, 0), &[size(3, 3)]), 1);
        let leaving = Size { present: 3, ..size(2, 2) };
        assert_eq!(grow_new(3, bounds, size(1, 1), &[leaving]), 1, "one has yet to go");
        let unsettled = Size { settled: false, ..size(3, 3) };
        assert_eq!(grow_new(3, bounds, size(0, 0), &[unsettled]), 0);
        assert_eq!(shrink_old(3, bounds, size(1, 1), &[unsettled]), [3]);
        assert_eq!(shrink_old(3, bounds, size(1, 0), &[size(3, 3)]), [3]);
        assert_eq!(shrink_old(3, bounds, size(1, 1), &[size(3, 3)]), [2]);
        assert_eq!(shrink_old(3, bounds, size(1, 0), &[size(3, 2)]), [3], "nothing to spare");
        let bounds = Bounds { max_surge: 0, max_unavailable: 2 };
        assert_eq!(
            shrink_old(5, bounds, size(0, 0), &[size(2, 1), size(3, 3)]),
            [0, 3],
            "the broken one first"
        );
    }

    #[test]
    fn resizing_keeps_the_shares() {
        assert_eq!(resize(10, &[5], &[5]), [10]);
        assert_eq!(resize(20, &[6, 4], &[10, 10]), [12, 8]);
        assert_eq!(resize(5, &[6, 4], &[10, 10]), [3, 2]);
        assert_eq!(resize(0, &[6, 4], &[10, 10]), [0, 0]);
        assert_eq!(resize(7, &[0, 0], &[10, 10]), [0, 0], "nothing to share by");
    }

    proptest! {
        /// However pods come and go available, a rolling update never asks for more than replicas + surge,
        /// takes no available pod below replicas − unavailable, and ends once all pods come up.
        #[test]
        fn within_bounds(
            replicas in 0..30i32,
            surge in 0..10i32,
            unavailable in 0..10i32,
            start in prop::collection::vec(0..10i32, 1..4),
            luck in prop::collection::vec(any::<(u8, u8)>(), 60),
        ) {
            let bounds = Bounds::of(&deployment(replicas, IntOrString::Int(surge), IntOrString::Int(unavailable)));
            // The old ones have `replicas` pods together, all available.
            let mut left = replicas;
            let mut old: Vec<Size> = start
                .iter()
                .map(|n| {
                    let wanted = (*n).min(left);
                    left -= wanted;
                    Size { wanted, present: wanted, available: wanted, settled: true }
                })
                .collect();
            old[0].wanted += left;
            old[0].present += left;
            old[0].available += left;
            let mut new = Size { settled: true, ..Size::default() };
            let most = replicas + bounds.max_surge;
            let least = replicas - bounds.max_unavailable;
            let steps = luck.into_iter().map(|(a, b)| (i32::from(a), i32::from(b)));
            // After the unlucky steps every pod comes up at once, for as many steps as it may take.
            for (comes, stale) in steps.chain(std::iter::repeat_n((255, 0), 100)) {
                new.wanted = grow_new(replicas, bounds, new, &old);
                let total = new.wanted + old.iter().map(|s| s.present).sum::<i32>();
                prop_assert!(total <= most, "{total} pods, {most} allowed");
                let sizes = shrink_old(replicas, bounds, new, &old);
                for (size, wanted) in old.iter_mut().zip(sizes) {
                    prop_assert!(wanted >= 0 && wanted <= size.wanted);
                    size.wanted = wanted;
                    // The status tells of the pods that went only later, or never within this step.
                    if stale % 2 == 0 {
                        size.present = wanted;
                        size.available = size.available.min(wanted);
                    }
                }
                let sure = new.sure() + old.iter().map(|s| s.sure()).sum::<i32>();
                prop_assert!(sure >= least, "{sure} available, {least} promised");
                new.available = (new.available + comes).min(new.wanted);
            }
            prop_assert_eq!(new.wanted, replicas);
            prop_assert!(old.iter().all(|s| s.wanted == 0));
        }
    }
}
