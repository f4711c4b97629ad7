rule evaluate:
    input:
        model=plan.evaluated,
        data="results/{name}/data/target",
    output:
        directory("results/{name}/seed{seed}{budget}/evaluate/{recipe}"),
    log:
        "results/{name}/logs/evaluate/seed{seed}{budget}/{recipe}.log",
    benchmark:
        "results/{name}/benchmarks/evaluate/seed{seed}{budget}/{recipe}.tsv"
    wildcard_constraints:
        recipe=one_of(plan.models),
    conda:
        "../../envs/cast.yaml"
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
        gpu=RESOURCES.gpu,
    params:
        settings=plan.settings("evaluate"),
        model=plan.evaluated_folder,
    shell:
        "cast evaluate --settings {params.settings:q} --model {params.model:q}"
        " --data {input.data:q}/validation.json --out {output:q} --threads {threads} 2>&1 | tee {log:q}"
