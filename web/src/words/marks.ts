/** Marks in the pictures of time, and what holds pieces and plans up: the server says them in English. */
export const markWords = {
  "mark.worker": ["a worker", "某个工人"],
  "mark.run.start": ["{run} began", "{run} 开始"],
  "mark.run.end": ["{run} ended: {state}", "{run} 结束：{state}"],
  "mark.run.retry": ["{run}: {n} piece begins anew|{run}: {n} pieces begin anew", "{run}：{n} 个条目重新开始"],
  "mark.run.pause": ["{run} was paused", "{run} 已暂停"],
  "mark.run.resume": ["{run} goes on", "{run} 继续"],
  "mark.budget.spent": ["{run}: its budget is spent ({scope})", "{run}：预算已用完（{scope}）"],
  "mark.limit.spent": ["{limit}: {why}", "限额 {limit} 已用完：{why}"],
  "mark.limit.changed": ["limit {limit} changed", "限额 {limit} 已修改"],
  "mark.pool.changed": ["pool {pool}: {what}", "池 {pool}：{what}"],
  "mark.what.pause": ["paused", "暂停"],
  "mark.what.resume": ["goes on", "继续"],
  "mark.what.limit": ["its limit changed", "限额已修改"],
  "mark.worker.started": ["{worker} began", "{worker} 启动"],
  "mark.worker.died": ["{worker} died, {n} piece handed on|{worker} died, {n} pieces handed on", "{worker} 已死亡，{n} 个条目已移交"],
  "mark.worker.drain": ["{worker} drains", "{worker} 排空中"],
  "mark.worker.stopped": ["{worker} left", "{worker} 离开"],
  "mark.step.quarantined": ["{run}: a piece was quarantined", "{run}：一个条目已隔离"],
  "mark.lock.forced": ["lock {key} was taken from {holder}", "已从 {holder} 收回锁 {key}"],
  "mark.scope.run": ["of the run", "此运行"],
  "mark.scope.day": ["of the day", "今日"],
  "mark.scope.project": ["of the project", "项目"],
} as const;

const reasons: readonly (readonly [RegExp, string])[] = [
  [/^no worker for pool "(.+)"$/, "没有处理池“$1”的工人"],
  [/^all workers of pool "(.+)" are paused$/, "池“$1”的工人都已暂停"],
  [/^no free slot in pool "(.+)"$/, "池“$1”没有空闲槽位"],
  [/^no worker knows operator "(.+)"$/, "没有工人认识算子“$1”"],
  [/^pool "(.+)" is paused$/, "池“$1”已暂停"],
  [/^the limit of pool "(.+)" over all workers \((\d+) of (\d+) run\)$/, "池“$1”在所有工人上的上限（$2 / $3 在运行）"],
  [/^the run is paused$/, "运行已暂停"],
  [/^the item is paused$/, "此输入已暂停"],
  [/^about to be (?:claimed|let go)$/, "即将开始"],
  [/^operator "(.+)" rests until (.+) UTC after (\d+) crashes$/, "算子“$1”崩溃 $3 次后休息至 $2 UTC"],
  [/^lock "(.+)" held by (.+) since (.+) UTC$/, "锁“$1”由 $2 持有，自 $3 UTC 起"],
  [/^quota: (.+) \(until (.+) UTC\)(?: and later)?$/, "配额：$1（至 $2 UTC）"],
  [/^quota: (.+)$/, "配额：$1"],
  [/^waiting for the same call$/, "等待同一调用的结果"],
  [/^its worker was stopped$/, "其工人已停止"],
  [/^scheduled \(until (.+) UTC\)(?: and later)?$/, "安排在 $1 UTC"],
  [/^waits for (\d+) open tasks? of step "(.+)"$/, "等待步骤“$2”的 $1 个未完成任务"],
  [/^parsing$/, "解析"],
  [/^calls at once$/, "同时调用数"],
  [/^requests a minute of (.+)$/, "$1 的每分钟请求数"],
  [/^tokens a minute of (.+)$/, "$1 的每分钟 token 数"],
  [/^requests a day of (.+)$/, "$1 的每日请求数"],
  [/^waits for (.+)$/, "等待 $1"],
];

/** A reason in Chinese, where it is one that is known; what is not known stays as it is. */
export function reasonInChinese(reason: string): string {
  const found = reasons.find(([pattern]) => pattern.test(reason));
  return found ? reason.replace(...found) : reason;
}
