//! How often Log rules may tell: a bucket of tokens.

use crate::{LogRate, Settings};

impl LogRate {
    /// Takes what one record costs, if it is there. `now`: low 32 bits of jiffies.
    ///
    /// The credit is counted in `hz`-ths of a record: a jiffy adds `log_rate` of them, so nothing
    /// is lost to rounding however few records a jiffy allows.
    #[inline(always)]
    pub fn take(&mut self, now: u32, settings: &Settings) -> bool {
        let price = if settings.hz == 0 { 1 } else { settings.hz };
        let most = u64::from(settings.log_burst) * u64::from(price);
        let most = if most > u64::from(u32::MAX) {
            u32::MAX
        } else {
            most as u32
        };
        let credit = if self.begun == 0 {
            self.begun = 1;
            most
        } else {
            let passed = now.wrapping_sub(self.at);
            let credit = u64::from(self.credit) + u64::from(passed) * u64::from(settings.log_rate);
            if credit > u64::from(most) { most } else { credit as u32 }
        };
        self.at = now;
        let may = credit >= price;
        self.credit = if may { credit - price } else { credit };
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records told of `each` a jiffy, for so many jiffies from `start` on.
    fn told(settings: &Settings, start: u32, jiffies: u32, each: u32) -> u32 {
        let mut rate = LogRate::default();
        (0..jiffies)
            .map(|jiffy| {
                (0..each)
                    .filter(|_| rate.take(start.wrapping_add(jiffy), settings))
                    .count() as u32
            })
            .sum()
    }

    #[test]
    fn the_rate_is_what_was_asked_for_at_any_hz() {
        for hz in [100, 250, 300, 1000] {
            for log_rate in [1, 7, 100, 5000] {
                let settings = Settings {
                    hz,
                    log_rate,
                    log_burst: 200,
                    ..Settings::default()
                };
                // The counter of jiffies wraps on the way.
                let found = told(&settings, u32::MAX - 5 * hz, 10 * hz + 1, 60);
                let wanted = 200 + 10 * log_rate;
                assert!(
                    found.abs_diff(wanted) <= 1,
                    "{log_rate} at {hz} Hz: {found}, not {wanted}"
                );
            }
        }
    }

    #[test]
    fn no_more_than_a_burst_is_saved_up() {
        let settings = Settings {
            hz: 250,
            log_rate: 100,
            log_burst: 3,
            ..Settings::default()
        };
        let mut rate = LogRate::default();
        for now in [0, 1_000_000, 2_000_000] {
            let told = (0..10).filter(|_| rate.take(now, &settings)).count();
            assert_eq!(told, 3);
        }
    }

    #[test]
    fn extremes_neither_panic_nor_open_the_tap() {
        let most = Settings {
            hz: u32::MAX,
            log_rate: u32::MAX,
            log_burst: u32::MAX,
            ..Settings::default()
        };
        let mut rate = LogRate::default();
        assert!(rate.take(0, &most));
        assert!(rate.take(u32::MAX, &most));
        let nothing = Settings::default();
        assert!(!LogRate::default().take(0, &nothing));
    }
}
