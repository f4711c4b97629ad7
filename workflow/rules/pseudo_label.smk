rule pseudo_label:
    input:
        model=plan.evaluated,
        split="results/{name}/seed{seed}{budget}/split",
    output:
        directory("results/{name}/seed{seed}{budget}/pseudo_label/{recipe}"),
    log:
        "results/{name}/logs/pseudo_label/seed{seed}{budget}/{recipe}.log",
    benchmark:
        "results/{name}/benchmarks/pseudo_label/seed{seed}{budget}/{recipe}.tsv"
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
        settings=plan.settings("pseudo_label"),
        model=plan.evaluated_folder,
    shell:
        "cast pseudo_label --settings {params.settings:q} --model {params.model:q} --split {input.split:q}"
        " --out {output:q} --threads {threads} 2>&1 | tee {log:q}"
